"""The page of a run: its pictures decode to the grids, its numbers are those of the records, and
nothing of a user's file gets out of its text."""
import base64
import importlib.util
import json
import re
import shutil
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

import refine
from arc import report, show
from arc.score import Prediction, attempts_by_votes
from arc.show import PALETTE
from arc.task import Task
from config import Config, UserError
from conftest import ROOT, TINY, flags, grid, make_task, records, write_tasks
from engine.runs import Log


def decode(png):
    """An independent reader of one kind of PNG: (H, W, 3) of a palette's colors, 8 bits a pixel."""
    assert png[:8] == bytes([137, 80, 78, 71, 13, 10, 26, 10])
    chunks, i = {}, 8
    while i < len(png):
        (length,), kind = struct.unpack(">I", png[i:i + 4]), png[i + 4:i + 8]
        data, checksum = png[i + 8:i + 8 + length], png[i + 8 + length:i + 12 + length]
        assert struct.unpack(">I", checksum)[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        i += 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    W, H, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(H, 1 + W)
    assert not rows[:, 0].any()                # no filter
    palette = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
    return palette[rows[:, 1:]].astype(int)


def read(png, cell):
    """Returns (the grid in a picture, which of its cells are marked).

    A cell's color stands between its center and its edge, a mark in the center.
    """
    pixels = decode(png)
    lines = np.concatenate([pixels[::cell].reshape(-1, 3), pixels[:, ::cell].reshape(-1, 3)])
    assert len(np.unique(lines, axis=0)) == 1
    colors = pixels[1:-1:cell, cell // 2::cell]
    found = np.apply_along_axis(lambda rgb: PALETTE.index(tuple(rgb)), 2, colors)
    inside = pixels[:-1, :-1].reshape(found.shape[0], cell, found.shape[1], cell, 3)
    inside = inside.swapaxes(1, 2)[:, :, 1:, 1:]                 # (H, W, cell - 1, cell - 1, 3)
    plain = np.array(PALETTE)[found][:, :, None, None]
    return found.astype(np.uint8), (inside != plain).any((2, 3, 4))


class Page(HTMLParser):
    """What a page holds. Tags must balance."""
    VOID = {"meta", "img", "br", "input"}

    def __init__(self, text):
        super().__init__()
        self.source = text
        self.open, self.tags, self.articles = [], [], []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "article":
            kind = attributes["class"].split()[0]
            self.articles.append({"kind": kind, "words": "", "images": {}, "digits": {}})
        if tag == "img":
            kind, _, data = attributes["src"].partition(",")
            assert kind == "data:image/png;base64"
            image = base64.b64decode(data, validate=True)
            self.articles[-1]["images"][attributes["alt"]] = image
        if tag == "pre":                       # behind its image
            name = list(self.articles[-1]["images"])[-1]
            self.articles[-1]["digits"][name] = ""

    def handle_startendtag(self, tag, attributes):               # SVG's
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "pre" in self.open:
            digits = self.articles[-1]["digits"]
            digits[list(digits)[-1]] += data
        elif data.strip() and "style" not in self.open:
            self.words += data + "|"
            if "article" in self.open:
                self.articles[-1]["words"] += data + "|"

    def value(self, name):
        """What stands behind a name: of a score, or in a table."""
        assert f"|{name}|" in self.words, name
        return self.words.partition(f"|{name}|")[2].partition("|")[0]


def page_of(folder):
    """The page, read; it fetches nothing and runs nothing."""
    page = Page((folder / "report.html").read_text("utf-8"))
    assert not re.search(r"https?:|@import|url\(", page.source)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name != "src":                  # src: data only, see Page
                assert not re.search("//|href|srcset", f"{name}={value}")
    return page


def write(folder, tasks, attempts, metrics=None, before=None, **knobs):
    folder.mkdir(exist_ok=True)
    config = Config(out_dir=str(folder), **knobs)
    report.write_report(Log(folder), config, metrics or {}, tasks, attempts, before)
    assert "report: " in (folder / "log.txt").read_text()
    assert not list(folder.glob("*.tmp"))
    return page_of(folder)


# ------------------------------------------------------------------------------------------------
# Pictures


@pytest.mark.parametrize("cell", [3, 4, 6, 8, 18])
@pytest.mark.parametrize("shape", [(1, 1), (1, 16), (7, 2), (30, 30)])
def test_a_picture_is_the_grid(shape, cell):
    values = np.random.default_rng(0).integers(0, 10, shape).astype(np.uint8)
    values.flat[:10] = np.arange(10)[:values.size]               # all colors
    found, marked = read(report.png(values, cell), cell)
    assert (found == values).all()
    assert not marked.any()


@pytest.mark.parametrize("cell", [6, 8, 18])
def test_wrong_cells_are_crossed_out_in_every_color(cell):
    values = np.array([range(10), range(10)], np.uint8)
    wrong = np.array([[1] * 10, [0] * 10], bool)
    png = report.png(values, cell, wrong)
    found, marked = read(png, cell)
    assert (found == values).all()
    assert (marked == wrong).all()
    # a mark can be seen: each cell of the first row is partly far from its color
    brightness = np.array([0.299, 0.587, 0.114])
    light = decode(png)[cell // 2] @ brightness
    for part, rgb in zip(light[:-1].reshape(10, cell)[:, 1:], PALETTE):
        assert max(abs(part - np.dot(rgb, brightness))) > 100


def test_a_drawing_shows_every_cell_and_crosses_out_the_wrong_ones(monkeypatch):
    """The picture of the README, of results/picture.py."""
    monkeypatch.syspath_prepend(str(ROOT / "results"))
    spec = importlib.util.spec_from_file_location("picture", ROOT / "results" / "picture.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    values, answer = grid("321 600"), grid("321 654")
    drawing = script.svg({"a": [("query", grid("12"), None), ("guess", values, answer)],
                          "b": [("guess", None, answer), ("guess", answer, answer)]})
    page = Page(drawing)
    cells = [attributes["fill"] for tag, attributes in page.tags if tag == "rect"]
    drawn = [1, 2, *values.ravel(), *answer.ravel()]
    assert cells == [f"rgb{PALETTE[color]}" for color in drawn]
    assert [tag for tag, _ in page.tags].count("path") == 2
    assert page.words.startswith("a|query |guess ✗ wrong in 2 of 6 cells|b|guess: no grid|")
    assert "guess ✓ right|" in page.words


# ------------------------------------------------------------------------------------------------
# In the terminal

C = make_task("c", "1 > 1", "12 > 345 678")
NEAR_C = grid("345 608")


@pytest.fixture
def terminal(monkeypatch):
    """terminal(columns) is a terminal without color of this width, terminal(None) a file."""
    def terminal(columns):
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns:
            monkeypatch.setenv("COLUMNS", str(columns))
    return terminal


def test_a_picture_shows_the_answer_beside_the_prediction_and_marks_wrong_cells(terminal):
    terminal(80)
    assert show.picture(C, 0, NEAR_C, "prediction").splitlines()[1:] == [
        "c: prediction wrong in 1 of 6 cells",
        "input   target   prediction",
        "1 2     3 4 5    3 4 5",
        "        6 7 8    6 0!8",
    ]
    assert "\nc: prediction right\n" in show.picture(C, 0, C.test[0][1], "prediction")
    assert "\nc: prediction wrong size\n" in show.picture(C, 0, grid("3"), "prediction")
    lines = show.picture(C, 0, None, "prediction").splitlines()
    assert lines[1] == "c: prediction wrong"
    assert lines[3] == "1 2     3 4 5    no grid"


def test_an_answer_that_is_not_known_is_called_unknown(terminal):
    terminal(80)
    task = make_task("u", "1 > 2", "3; 4")
    assert show.picture(task, 1, None, "attempt 1").splitlines()[1:] == [
        "u",
        "input   target    attempt 1",
        "4       unknown   no grid",
    ]
    text = show.task_text(task)
    assert "no grid" not in text
    assert text.splitlines()[-2:] == ["query 1: input 1x1   output", "4                    unknown"]


def test_what_is_wider_than_the_terminal_goes_below_the_answer_beside_the_prediction(terminal):
    terminal(26)                               # one column too few for all three
    below = ["target   prediction", "3 4 5    3 4 5", "6 7 8    6 0!8"]
    assert show.picture(C, 0, NEAR_C, "prediction").splitlines()[2:] == ["input", "1 2", *below]
    terminal(19)
    assert show.picture(C, 0, NEAR_C, "prediction").splitlines()[4:] == below
    terminal(18)
    assert show.picture(C, 0, NEAR_C, "prediction").splitlines()[2:] == [
        "input   target", "1 2     3 4 5", "        6 7 8", "prediction", "3 4 5", "6 0!8"]


@pytest.mark.parametrize("columns", [20, 40, 80, 120, 200, None])
def test_no_line_is_wider_than_the_terminal_and_no_cell_is_lost(terminal, columns):
    """A row of 93 cells, and 30 x 30; a file gets at most 80 columns."""
    terminal(columns)
    for shape in ((1, 93), (30, 30)):
        grids = np.random.default_rng(0).integers(0, 10, (3, *shape)).astype(np.uint8)
        query, answer, guess = grids
        text = show.picture(Task("t", [], [(query, answer)]), 0, guess, "prediction")
        lines = text.splitlines()[2:]
        assert max(map(len, lines)) <= (columns or 80)
        starts = [line for line in lines if line.startswith("from column")]
        shown = "".join(line for line in lines if line not in starts)
        assert sorted(re.findall("[0-9]", shown)) == sorted(map(str, grids.ravel()))
        assert shown.count("!") == (guess != answer).sum()
        if columns == 20 and shape == (30, 30):
            assert starts == ["from column 10:", "from column 20:"] * 3
        if columns == 200:
            assert len(lines) == (31 if shape == (30, 30) else 6)


def test_without_its_color_codes_a_picture_reads_as_in_a_file(terminal, monkeypatch):
    terminal(80)
    plain = show.picture(C, 0, NEAR_C, "prediction")
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    colored = show.picture(C, 0, NEAR_C, "prediction")
    stripped = re.sub(r"\033\[[\d;]*m", "", colored)
    assert [line.rstrip() for line in stripped.splitlines()] == plain.splitlines()
    for color in map(int, "12345678"):
        assert "48;2;{};{};{}m".format(*PALETTE[color]) in colored
    # only the wrong cell's digit has another color than its ground
    codes = re.findall(r"38;2;(\d+;\d+;\d+);48;2;(\d+;\d+;\d+)m(..)", colored)
    assert len(codes) == 14
    assert [text for ink, ground, text in codes if ink != ground] == ["0!"]


def test_a_task_is_found_by_its_id_or_the_start_of_it_and_shown_token_by_token(capsys):
    show.main(["--help"])
    assert "python -m arc.show FILE TASK" in capsys.readouterr().out
    show.main(["oned", "1d_flip"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("task 1d_flip/")
    rows = [line.split() for line in printed if re.match(" *[0-9]+  [0-9a-z]+ +[0-9] ", line)]
    starts = [row[1:] for row in rows if row[1] == "start"]
    assert starts == [["start", str(pair), "input", "0", "0"] for pair in range(4)]
    assert [row[0] for row in rows] == [str(index) for index in range(len(rows))]
    with pytest.raises(UserError, match="oned has no task '1d_flop'; near it: 1d_flip"):
        show.main(["oned", "1d_flop"])
    show.main(["oned", "2d_flip"])             # lifted: several rows in a grid
    assert re.search("input [2-9]x", capsys.readouterr().out)
    show.main([])
    assert "1d_recolor_oe" in capsys.readouterr().out


def test_a_task_without_pairs_is_shown_as_it_is(tmp_path, capsys):
    (tmp_path / "empty.json").write_text('{"train": [], "test": []}')
    show.main([str(tmp_path / "empty.json")])
    assert "0 demonstrations, 0 queries" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------
# The gallery

A = make_task("a", "12 > 21; 3 > 3; 4 > 4; 5 > 5", "123 456 > 321 654")
B = make_task("b", "1 > 1", "78 > 87; 9 > 9")


def test_right_and_wrong_are_named_counted_and_drawn(tmp_path):
    """a's query fails twice and comes first, then b's: right at the second attempt, and at once."""
    near, answer = grid("321 600"), A.test[0][1]
    attempts = {
        ("a", 0): [near, grid("3")],
        ("b", 0): [grid("88"), grid("87")],
        ("b", 1): [grid("9")],
    }
    page = write(tmp_path, [B, A], attempts)
    assert "3 test queries" in page.words
    assert "1 ✗ near miss, 1 ✓ right by attempt 2, 1 ✓ right by attempt 1." in page.words
    assert "Not shown" not in page.words
    assert [a["kind"] for a in page.articles] == ["near", "right", "right"]
    first, second, third = [a["words"] for a in page.articles]
    assert first.startswith("a |✗ near miss|")
    assert "attempt 1 |✗ wrong in 2 of 6 cells|" in first
    assert "attempt 2 |✗ wrong size|" in first
    assert "1 more demonstrations" in first
    assert "input 3" in first and "input 4" not in first
    assert second.startswith("b, query 1 of 2 |✓ right by attempt 2|")
    assert "attempt 1 |✗ wrong in 1 of 2 cells|" in second
    assert "attempt 2 |✓ right|" in second
    assert "attempt 1 |✓ right|" in third and "attempt 2" not in third
    pictures = page.articles[0]["images"]
    assert sorted(pictures) == [
        "attempt 1, 2 x 3 cells: wrong in 2 of 6 cells",
        "attempt 2, 1 x 1 cells: wrong size",
        "input 1, 1 x 2 cells",
        "input 2, 1 x 1 cells",
        "input 3, 1 x 1 cells",
        "output 1, 1 x 2 cells",
        "output 2, 1 x 1 cells",
        "output 3, 1 x 1 cells",
        "query, 2 x 3 cells",
        "target, 2 x 3 cells",
    ]
    found, marked = read(pictures["attempt 1, 2 x 3 cells: wrong in 2 of 6 cells"], 18)
    assert (found == near).all()
    assert (marked == (near != answer)).all()
    assert (read(pictures["target, 2 x 3 cells"], 18)[0] == answer).all()
    assert (read(pictures["input 1, 1 x 2 cells"], 8)[0] == grid("12")).all()


def test_near_misses_come_first_then_wrong_unknown_and_right(tmp_path):
    """The fewest wrong cells of two attempts count, and only of those that have the right shape."""
    answer = grid("12345 67890 12345")

    def wrong_in(n):
        return np.where(np.arange(15).reshape(3, 5) < n, (answer + 1) % 10, answer).astype(np.uint8)
    tried = {
        "right": [answer],
        "second": [wrong_in(1), answer],
        "unknown": [wrong_in(1)],
        "none": [],
        "size": [answer[:2], answer.T],
        "many": [wrong_in(14)],
        "six": [wrong_in(6)],
        "five": [wrong_in(9), wrong_in(5)],
        "one": [answer[:2], wrong_in(1)],
    }
    tasks = [Task(name, B.train, [(answer, answer if name != "unknown" else None)])
             for name in tried]
    # one wrong cell of one is no near miss
    tasks.append(make_task("cell", "1 > 1", "1 > 2"))
    attempts = {(name, 0): grids for name, grids in tried.items()}
    page = write(tmp_path, tasks, {**attempts, ("cell", 0): [grid("3")]})
    shown = [(a["words"].split(" |")[0], a["kind"]) for a in page.articles]
    assert shown == [
        ("one", "near"), ("five", "near"),
        ("cell", "wrong"), ("six", "wrong"), ("many", "wrong"), ("none", "wrong"),
        ("size", "wrong"),
        ("unknown", "unknown"),
        ("second", "right"), ("right", "right"),
    ]
    assert ("2 ✗ near miss, 5 ✗ wrong, 1 – unknown answer, 1 ✓ right by attempt 2, "
            "1 ✓ right by attempt 1.") in page.words
    assert f"at most {report.NEAR} cells," in page.words


def test_a_switch_without_scripts_shows_the_digits_of_every_grid(tmp_path):
    wide = Task("wide", [(np.arange(93, dtype=np.uint8)[None] % 10, grid("5"))], A.test)
    page = write(tmp_path, [A, wide], {("a", 0): [grid("321 600")]})
    switches = [attributes for tag, attributes in page.tags if tag == "input"]
    assert switches == [{"type": "checkbox"}]
    assert "|digits in the cells|" in page.words.replace("| ", "|")
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    hidden, _, shown = style.partition(":has(:checked) ~ article {")
    assert "pre { display: none" in hidden
    assert "pre { display: block" in shown
    # siblings of the switch's label, as the style asks for
    assert re.search(r"</label>\s*<article", page.source)
    for article in page.articles:
        assert article["digits"].keys() == article["images"].keys()
        for name, image in article["images"].items():
            digits = article["digits"][name].split("\n")
            cell = (len(decode(image)) - 1) // len(digits)
            assert read(image, cell)[0].tolist() == [list(map(int, row)) for row in digits]
    digits = {article["words"].split(" |")[0]: article["digits"] for article in page.articles}
    assert digits["a"]["attempt 1, 2 x 3 cells: wrong in 2 of 6 cells"] == "321\n600"
    assert digits["wide"]["input 1, 1 x 93 cells"] == ("0123456789" * 10)[:93]


def test_a_small_answer_is_not_drawn_small_because_its_query_is_large(tmp_path):
    large = np.ones((30, 30), np.uint8)
    task = Task("t", [(large, grid("12"))], [(large, grid("34"))])
    page = write(tmp_path, [task], {("t", 0): [grid("35"), grid("3")]})
    images = page.articles[0]["images"]
    sides = {name.split(",")[0]: len(decode(image)) for name, image in images.items()}
    assert sides == {"input 1": 121, "output 1": 9, "query": 181, "target": 19, "attempt 1": 19,
                     "attempt 2": 19}


def test_no_grid_is_wrong_and_an_unknown_answer_is_neither(tmp_path):
    unknown = make_task("u", "1 > 2", "3; 4")
    page = write(tmp_path, [unknown, B], {("u", 0): [grid("5")], ("b", 0): []})
    assert "2 ✗ wrong, 2 – unknown answer." in page.words
    wrong, _, shown, failed = page.articles
    assert wrong["words"].endswith("attempt 1 |✗ wrong|no grid|")
    assert wrong["kind"] == "wrong"
    assert shown["kind"] == failed["kind"] == "unknown"
    assert "attempt 1, 1 x 1 cells" in shown["images"]
    assert "no grid" in failed["words"]
    for article in (shown, failed):
        words = article["words"] + str(list(article["images"]))
        assert not re.search("right|wrong|✓|✗|answer,", words)


@pytest.mark.parametrize("name", [
    '"><script>alert(1)</script>',
    "<img src=x onerror=alert(1)>",
    "</style></article>&amp;",
    "{title} {0}",
])
def test_ids_of_a_file_stay_text(tmp_path, name):
    metrics = dict(families={"x": 0.5, f"{name}!": 0.25})
    page = write(tmp_path, [A._replace(id=name)], {(name, 0): [grid("1")]}, metrics, test=name)
    assert page.articles[0]["words"].startswith(f"{name} |✗ wrong|")
    assert len(page.articles[0]["images"]) == 9
    assert page.value("test tasks") == name
    assert page.value(f"{name}!") == "25.0%"


def test_a_page_stays_small_and_says_what_it_leaves_out(tmp_path):
    """130 queries of 30 x 30 noise, of which the last 40 are right, and the others nearly."""
    rng = np.random.default_rng(0)

    def noise():
        return rng.integers(0, 10, (30, 30)).astype(np.uint8)

    def near(grid):
        return np.where(rng.random(grid.shape) < 0.01, (grid + 1) % 10, grid).astype(np.uint8)
    tasks, attempts = [], {}
    for i in range(130):
        answer = noise()
        demos = [(noise(), noise()) for _ in range(4)]
        tasks.append(Task(f"t{i}", demos, [(noise(), answer)]))
        attempts[f"t{i}", 0] = [answer] if i >= 90 else [near(answer), near(answer)]
    page = write(tmp_path, tasks, attempts)
    n = sum(min((a != task.test[0][1]).sum() for a in attempts[task.id, 0]) <= report.NEAR
            for task in tasks[:90])
    assert 0 < n < 90
    kinds = ["near"] * n + ["wrong"] * (90 - n) + ["right"] * 10
    assert [a["kind"] for a in page.articles] == kinds
    assert "130 test queries" in page.words
    left_out = "Not shown, to keep this page small: 30 (30 ✓ right by attempt 1)."
    assert left_out in page.words
    assert len(page.source) < 3_000_000


# ------------------------------------------------------------------------------------------------
# A run's page


def numbers(page, caption):
    words = next(words for words in page.words.split("|") if words.startswith(caption))
    return [float(number) for number in re.findall(r"\d+\.\d+", words)]


def axis(pairs, scale):
    """Returns the line (slope, offset) from pixels to values through an axis's labels."""
    return np.polyfit([float(pixel) for pixel, _ in pairs], [scale(label) for _, label in pairs], 1)


def curve(page, chart, number):
    """Returns the points [(step, value)] of a curve, read off its chart by the axes' labels."""
    svg = re.findall(r"<svg.*?</svg>", page.source)[chart]
    across = re.findall(r'<text x="([\d.]+)" y="204"[^>]*>([^<]+)', svg)
    up = re.findall(r'<text x="38" y="([\d.]+)"[^>]*>([^<]+)', svg)
    share = "%" in svg
    X = axis(across, float)
    Y = axis(up, (lambda t: float(t.rstrip("%")) / 100) if share else (lambda t: np.log(float(t))))
    found = []
    for point in re.findall(r'points="([^"]*)"', svg)[number].split():
        x, y = map(float, point.split(","))
        value = np.polyval(Y, y)
        found.append((np.polyval(X, x), value if share else np.exp(value)))
    return found


def test_the_page_of_a_run_shows_what_was_recorded(run, tmp_path):
    metrics = run(max_steps=40, eval_every=10, log_every=5, oned_families="1d_fill,1d_flip",
                  learning_rate=1e-2)
    folder = tmp_path / "run"
    page, (last,) = page_of(folder), records(folder, "test")
    last_line = (folder / "log.txt").read_text().splitlines()[-1]
    assert f"report: {folder / 'report.html'}" in last_line

    shares = {
        "pass@1, plain view": last["pass1_single"],
        "pass@1": last["pass1"],
        "pass@2": last["pass2"],
        "oracle": last["oracle"],
        "1d_fill": last["families"]["1d_fill"],
        "1d_flip": last["families"]["1d_flip"],
    }
    for name, value in shares.items():
        assert page.value(name) == f"{value:.1%}"
    saved = json.loads((folder / "config.json").read_text())
    facts = {
        "tasks": last["tasks"],
        "test tasks": last["source"],
        "views": last["views"],
        "times scored": last["times_scored"],
        "commit": saved["versions"]["commit"],
        "python, torch": f"{saved['versions']['python']}, {saved['versions']['torch']}",
        "training": f"{metrics['train_minutes']:.1f} minutes",
        "predictions, votes": f"{last['seconds'] / 60:.1f} minutes",
        "device": saved["machine"],
    }
    for name, value in facts.items():
        assert page.value(name) == str(value)
    assert page.value("device").startswith("cpu")
    # a half line on each score
    meanings = {
        "pass@1, plain view": "the prediction for the task as it is, no vote",
        "pass@2": "one of the two best attempts",
        "oracle": "a prediction under any view",
    }
    for name, meaning in meanings.items():
        assert f"|{name}|{page.value(name)}|{meaning}|" in page.words
    given = page.value("knobs given")
    for part in ("max_steps = 40", "learning_rate = 0.01", "out_dir = run"):
        assert part in given
    assert str(tmp_path) not in page.source

    train, val = records(folder, "train"), records(folder, "val")
    ends = [round(train[-1]["loss"], 4), round(val[-1]["loss"], 4)]
    assert numbers(page, "loss by step") == ends
    best = max(record["exact"] for record in val)
    shares = [round(100 * val[-1]["exact"], 1), round(100 * best, 1)]
    assert numbers(page, "validation by step") == shares
    for chart, number, lines, key in [(0, 0, val, "loss"), (0, 1, train, "loss"),
                                      (1, 0, val, "exact")]:
        steps, values = np.transpose(curve(page, chart, number))
        assert np.allclose(steps, [line["step"] for line in lines], atol=0.1)
        assert np.allclose(values, [line[key] for line in lines], rtol=0.01, atol=0.002)

    submission = json.loads((folder / "submission.json").read_text())
    for article in page.articles:
        task_id = article["words"].split(" |")[0]
        first = [png for name, png in article["images"].items() if name.startswith("attempt 1")]
        shown = read(first[0], 18)[0].tolist() if first else [[0]]
        assert shown == submission[task_id][0]["attempt_1"]
    assert len(page.articles) == last["tasks"]
    right = sum("✓ right by attempt 1" in article["words"] for article in page.articles)
    assert right == round(last["pass1"] * last["tasks"])


def test_the_page_of_a_longer_run(tmp_path):
    """From the records of the README's first run."""
    shutil.copy(ROOT / "results" / "headline" / "seed1.jsonl", tmp_path / "metrics.jsonl")
    metrics = records(tmp_path, "test")[0]
    page = write(tmp_path, [], {}, metrics)
    minutes = re.findall(r"([\w.]+) minutes", page.words)
    seconds = [records(tmp_path, "train")[-1]["seconds"], metrics["seconds"]]
    assert minutes == [f"{s / 60:.1f}" for s in seconds]
    assert float(minutes[0]) > 4
    for name, value in metrics["families"].items():
        assert page.value(name) == f"{value:.1%}"
    order = [metrics["families"][name] for name in re.findall(r"<th>(1d_\w+)", page.source)]
    assert order == sorted(order)
    assert len(order) == 18
    exact = [(record["step"], record["exact"]) for record in records(tmp_path, "val")]
    assert np.allclose(curve(page, 1, 0), exact, rtol=0.01, atol=0.002)


def test_one_family_needs_no_table_and_no_test_set_no_gallery(run, tmp_path):
    run()
    assert "by family" not in page_of(tmp_path / "run").words
    run(out="b", test="", max_steps=2, log_every=1)
    page = page_of(tmp_path / "b")
    assert not page.articles
    assert "test queries" not in page.words
    assert "pass@" not in page.words
    assert len(re.findall("<svg", page.source)) == 2


def test_another_file_that_is_solved_gets_a_page_of_its_own(run, tmp_path):
    """In a folder of its own, below the run's; it says what was asked."""
    run()
    mine = write_tasks(tmp_path / "mine.json", [make_task("only", "12 > 21", "34; 56")])
    run(eval_only=True, tasks=mine)
    page = page_of(tmp_path / "run" / "mine")
    assert page.value("views") == "2"          # though there is no score
    assert page.value("test tasks") == "mine.json"
    assert "eval_only = True" in page.value("knobs given")
    assert "2 – unknown answer." in page.words
    assert "pass@" not in page.words
    assert [a["words"][:4] for a in page.articles] == ["only"] * 2
    assert page_of(tmp_path / "run").value("test tasks") == "oned"


def test_weights_from_elsewhere_get_no_curves_and_no_training_time(run, tmp_path):
    run()
    run(out="b")
    run(out="b", eval_only=True, init_from=tmp_path / "run" / "ckpt.pt")
    page = page_of(tmp_path / "b")
    assert len(page.articles) == 2
    assert "loss by step" not in page.words
    assert "|training|" not in page.words


def test_a_refined_run_shows_what_was_predicted_before(tmp_path):
    before = attempts_by_votes([Prediction("a", 0, 0, grid("321 600"), -1)])
    after = attempts_by_votes([Prediction("a", 0, 0, A.test[0][1], -1)])
    folder = tmp_path / "mine" / "refine"
    folder.mkdir(parents=True)
    metrics = dict(single_before=0.0, single_after=1.0, tasks=1)
    page = write(folder, [A], after, metrics, before)
    assert page.words.count("mine/refine") == 2
    assert page.value("plain view, prediction → refined") == "0.0% → 100.0%"
    (article,) = page.articles
    assert "prediction |✗ wrong in 2 of 6 cells|attempt 1 |✓ right|" in article["words"]
    assert article["kind"] == "right"


def test_refine_writes_a_page(run, tmp_path):
    knobs = dict(oned_eval=4, max_answer=40, max_steps=40, learning_rate=0.01,
                 refine_tasks=20, refine_steps=2)
    run(**knobs)
    metrics = refine.main(flags(**{**TINY, "out_dir": tmp_path / "run", **knobs}))
    page = page_of(tmp_path / "run" / "refine")
    both = f"{metrics['pass2_before']:.1%} → {metrics['pass2_after']:.1%}"
    assert page.value("pass@2") == both
    assert len(page.articles) == metrics["tasks"]
    assert all("|prediction" in article["words"] for article in page.articles)


def test_a_page_that_cannot_be_drawn_costs_no_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "png", lambda *_: 1 / 0)
    metrics = run()
    folder = tmp_path / "run"
    assert metrics["pass2"] >= 0
    assert records(folder, "test")
    assert (folder / "submission.json").exists()
    last_line = (folder / "log.txt").read_text().splitlines()[-1]
    assert "report: not written (ZeroDivisionError" in last_line
    assert not (folder / "report.html").exists()


def test_half_a_page_replaces_no_page(tmp_path, monkeypatch):
    write(tmp_path, [A], {})
    before = (tmp_path / "report.html").read_text()
    monkeypatch.setattr(report, "query_card", lambda *_: 1 / 0)
    report.write_report(Log(tmp_path), Config(out_dir=str(tmp_path)), {}, [A], {})
    assert (tmp_path / "report.html").read_text() == before


def test_overwrite_leaves_no_old_page(run, tmp_path, monkeypatch):
    run()
    monkeypatch.setattr(report, "write_text", lambda *_: 1 / 0)
    run(overwrite=True)
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("text, shown", [
    ("/home/me/my tasks/a.json", "a.json"),
    ("--train=/x/a.json+/y/b.json#100", "--train=a.json+b.json#100"),
    ("out/look", "out/look"),
    ("a/b.pt, /c/d.pt", "a/b.pt,d.pt"),
    ("~/a.json", "a.json"),
    (r"C:\me\a.json", "a.json"),
    ("arc1:training", "arc1:training"),
    (0.01, "0.01"),
])
def test_no_folder_of_the_machine_is_named(text, shown):
    assert report.without_folders(text) == shown


def test_the_command_is_shown_as_it_was_given(tmp_path):
    command = "/opt/me/train.py config/x.py '--tasks=/home/J S/t.json'"
    saved = dict(command=command, given={}, versions={})
    (tmp_path / "config.json").write_text(json.dumps(saved))
    page = write(tmp_path, [A], {})
    assert page.value("command") == "train.py config/x.py --tasks=t.json"


def test_the_page_of_eval_only_tells_the_command_that_predicted_from_the_one_that_trained(tmp_path):
    """eval.json is what predicted, in the folder of a run with its own config.json."""
    def save(name, command, machine):
        saved = dict(command=command, given={"out_dir": machine}, versions={}, machine=machine)
        (tmp_path / name).write_text(json.dumps(saved))
    save("config.json", "train.py config/x.py", "cuda")
    page = write(tmp_path, [A], {}, eval_only=True, views=3)
    assert page.value("training command") == "train.py config/x.py"
    assert "|command|" not in page.words
    assert "cuda" not in page.words            # where it predicted is not known
    save("eval.json", "train.py config/x.py --eval_only --views=3", "cpu")
    page = write(tmp_path, [A], {}, eval_only=True, views=3)
    assert page.value("training command") == "train.py config/x.py"
    assert page.value("command") == "train.py config/x.py --eval_only --views=3"
    assert page.value("device") == "cpu"
    assert page.value("knobs given") == "out_dir = cpu"
    assert page.value("views") == "3"
    # weights from elsewhere: this folder's run is not the one that trained them
    page = write(tmp_path, [A], {}, eval_only=True, init_from="b.pt")
    assert "training command" not in page.words
    assert page.value("device") == "cpu"
    # a run that trains does not look at it
    assert write(tmp_path, [A], {}).value("command") == "train.py config/x.py"


def test_solving_anew_in_a_runs_folder_says_what_was_run_and_keeps_its_config(run, tmp_path):
    run()
    config = (tmp_path / "run" / "config.json").read_text()
    run(eval_only=True, views=3)
    page = page_of(tmp_path / "run")
    assert page.value("views") == "3"
    assert "eval_only = True" in page.value("knobs given")
    assert (tmp_path / "run" / "config.json").read_text() == config
    assert "loss by step" in page.words        # of the run that trained
