"""The page of a run: its pictures decode to the grids, its numbers are those of the records, and nothing of a user's file gets out of its text."""
import base64
import json
import re
import shutil
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

import refine
import train
from config import Config
from conftest import ROOT, TINY, flags, grid, make_task, records, write_tasks
from data import report
from data.arc import Task
from data.score import Draft, score
from data.show import PALETTE


def decode(png):
    """An independent reader of one kind of PNG: 4 bits a pixel, a palette, rows without a filter. -> (H, W, 3)."""
    assert png[:8] == bytes([137, 80, 78, 71, 13, 10, 26, 10])
    chunks, place = {}, 8
    while place < len(png):
        (length,), kind = struct.unpack(">I", png[place:place + 4]), png[place + 4:place + 8]
        chunks[kind] = png[place + 8:place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length:place + 12 + length])[0] == zlib.crc32(kind + chunks[kind])
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    W, H, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [4, 3, 0, 0, 0]
    palette, raw, stride = chunks[b"PLTE"], zlib.decompress(chunks[b"IDAT"]), 1 + (W + 1) // 2
    assert len(raw) == H * stride and not any(raw[r * stride] for r in range(H))
    nibble = lambda r, c: raw[r * stride + 1 + c // 2] >> (0 if c % 2 else 4) & 15
    return np.array([[list(palette[3 * nibble(r, c):][:3]) for c in range(W)] for r in range(H)])


def read(png, cell):
    """-> (the grid in the picture, which cells are marked): a cell's colour stands between its centre and its edge, a mark in the centre."""
    pixels = decode(png)
    assert len({tuple(p) for p in pixels[::cell].reshape(-1, 3)} | {tuple(p) for p in pixels[:, ::cell].reshape(-1, 3)}) == 1       # the lines
    found = np.apply_along_axis(lambda rgb: PALETTE.index(tuple(rgb)), 2, pixels[1:-1:cell, cell // 2::cell]).astype(np.uint8)
    inside = pixels[:-1, :-1].reshape(found.shape[0], cell, found.shape[1], cell, 3).swapaxes(1, 2)[:, :, 1:, 1:]
    return found, (inside != np.array(PALETTE)[found][:, :, None, None]).any((2, 3, 4))


class Page(HTMLParser):
    """What a page holds. Tags must balance."""
    VOID = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.articles, self.source = [], [], "", [], text
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "article":
            self.articles.append({"kind": attributes["class"].split()[0], "words": "", "images": {}})
        if tag == "img":
            kind, _, data = attributes["src"].partition(",")
            assert kind == "data:image/png;base64"
            self.articles[-1]["images"][attributes["alt"]] = base64.b64decode(data, validate=True)

    def handle_startendtag(self, tag, attributes):             # SVG's
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
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
    assert not any(re.search("//|href|srcset", f"{name}={value}") for _, tag in page.tags for name, value in tag.items() if name != "src")     # src: data only
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    return page


def write(folder, tasks, attempts, metrics=None, before=None, **knobs):
    folder.mkdir(exist_ok=True)
    report.write_report(train.Log(folder), Config(out_dir=str(folder), **knobs), metrics or {}, tasks, attempts, before)
    assert "report: " in (folder / "log.txt").read_text() and not list(folder.glob("*.tmp"))
    return page_of(folder)


# --------------------------------------------------------------------------------------------------------------------
# Pictures

@pytest.mark.parametrize("cell", [3, 4, 6, 8, 18])
@pytest.mark.parametrize("shape", [(1, 1), (1, 16), (7, 2), (30, 30)])
def test_a_picture_is_the_grid(shape, cell):
    values = np.random.default_rng(0).integers(0, 10, shape).astype(np.uint8)
    values.flat[:10] = np.arange(10)[:values.size]             # all colours
    found, marked = read(report.png(values, cell), cell)
    assert (found == values).all() and not marked.any()


@pytest.mark.parametrize("cell", [6, 8, 18])
def test_wrong_cells_are_crossed_out_in_every_colour(cell):
    values, wrong = np.array([range(10), range(10)], np.uint8), np.array([[1] * 10, [0] * 10], bool)
    png = report.png(values, cell, wrong)
    found, marked = read(png, cell)
    assert (found == values).all() and (marked == wrong).all()
    light = decode(png)[cell // 2] @ [0.299, 0.587, 0.114]     # a mark can be seen: each cell of the first row is partly far from its colour
    assert all(max(abs(part - np.dot(rgb, [0.299, 0.587, 0.114]))) > 100 for part, rgb in zip(light[:-1].reshape(10, cell)[:, 1:], PALETTE))


# --------------------------------------------------------------------------------------------------------------------
# The gallery

A, B = make_task("a", "12 > 21; 3 > 3; 4 > 4; 5 > 5", "123 456 > 321 654"), make_task("b", "1 > 1", "78 > 87; 9 > 9")


def test_right_and_wrong_are_said_counted_and_drawn(tmp_path):
    """The first query fails twice, b's first is right at the second attempt, b's second at once: and this is the order."""
    near, answer = grid("321 600"), A.test[0][1]
    attempts = {("a", 0): [near, grid("3")], ("b", 0): [grid("88"), grid("87")], ("b", 1): [grid("9")]}
    page = write(tmp_path, [B, A], attempts)
    assert "3 test queries" in page.words and "1 ✗ wrong, 1 ✓ right by attempt 2, 1 ✓ right by attempt 1." in page.words and "Not shown" not in page.words
    first, second, third = page.articles
    assert [a["kind"] for a in page.articles] == ["wrong", "right", "right"]
    assert first["words"].startswith("a |✗ wrong|") and second["words"].startswith("b, query 1 of 2 |✓ right by attempt 2|")
    assert "attempt 1 |✗ wrong in 2 of 6 cells|" in first["words"] and "attempt 2 |✗ wrong size|" in first["words"]
    assert "attempt 1 |✗ wrong in 1 of 2 cells|" in second["words"] and "attempt 2 |✓ right|" in second["words"]
    assert "attempt 1 |✓ right|" in third["words"] and "attempt 2" not in third["words"]
    assert "1 more demonstrations" in first["words"] and "input 3" in first["words"] and "input 4" not in first["words"]
    pictures = first["images"]
    assert set(pictures) == {"query, 2 x 3 cells", "answer, 2 x 3 cells", "attempt 1, 2 x 3 cells: wrong in 2 of 6 cells", "attempt 2, 1 x 1 cells: wrong size",
                             *(f"{name} {k}, 1 x {2 if k == 1 else 1} cells" for name in ("input", "output") for k in (1, 2, 3))}
    found, marked = read(pictures["attempt 1, 2 x 3 cells: wrong in 2 of 6 cells"], 18)
    assert (found == near).all() and (marked == (near != answer)).all()
    assert (read(pictures["answer, 2 x 3 cells"], 18)[0] == answer).all() and (read(pictures["input 1, 1 x 2 cells"], 8)[0] == grid("12")).all()


def test_no_grid_and_no_answer(tmp_path):
    """A failed draft is wrong where the answer is known; where it is not, nothing is said to be right or wrong."""
    unknown = make_task("u", "1 > 2", "3; 4")
    page = write(tmp_path, [unknown, B], {("u", 0): [grid("5")], ("b", 0): []})
    assert "2 ✗ wrong, 2 – unknown answer." in page.words
    wrong, _, shown, failed = page.articles
    assert wrong["words"].endswith("attempt 1 |✗ wrong|no grid|") and wrong["kind"] == "wrong"
    assert shown["kind"] == failed["kind"] == "unknown" and "attempt 1, 1 x 1 cells" in shown["images"] and "no grid" in failed["words"]
    assert not any(word in a["words"] + str(list(a["images"])) for a in (shown, failed) for word in ("right", "wrong", "✓", "✗", "answer,"))


def test_ids_of_a_file_stay_text(tmp_path):
    for name in ('"><script>alert(1)</script>', "<img src=x onerror=alert(1)>", "</style></article>&amp;", "half \ud800 a character"):
        page = write(tmp_path, [A._replace(id=name)], {(name, 0): [grid("1")]}, dict(families={"x": 0.5, f"{name}!": 0.25}), test=name)
        name = name.replace("\ud800", "?")
        assert page.articles[0]["words"].startswith(f"{name} |✗ wrong|") and len(page.articles[0]["images"]) == 9
        assert page.value("test tasks") == name and page.value(f"{name}!") == "25.0%"


def test_a_page_stays_small_and_says_what_it_leaves_out(tmp_path):
    """130 queries of 30 x 30 noise, of which the last 40 are right, and the others nearly."""
    rng = np.random.default_rng(0)
    noise = lambda: rng.integers(0, 10, (30, 30)).astype(np.uint8)
    tasks = [Task(f"t{i}", [(noise(), noise()) for _ in range(4)], [(noise(), noise())]) for i in range(130)]
    near = lambda g: np.where(rng.random(g.shape) < 0.01, (g + 1) % 10, g).astype(np.uint8)
    attempts = {(t.id, 0): [t.test[0][1]] if i >= 90 else [near(t.test[0][1]), near(t.test[0][1])] for i, t in enumerate(tasks)}
    page = write(tmp_path, tasks, attempts)
    assert [a["kind"] for a in page.articles] == ["wrong"] * 90 + ["right"] * 10
    assert "130 test queries" in page.words and "Not shown, to keep this page small: 30 (30 ✓ right by attempt 1)." in page.words
    assert len(page.source) < 2_000_000


# --------------------------------------------------------------------------------------------------------------------
# A run's page

def numbers(page, caption):
    return [float(x) for x in re.findall(r"\d+\.\d+", next(w for w in page.words.split("|") if w.startswith(caption)))]


def curve(page, chart, place):
    """The points of a curve, read off its chart by the labels of the axes: [(step, value)]."""
    svg = re.findall(r"<svg.*?</svg>", page.source)[chart]
    across = [(float(x), float(t)) for x, t in re.findall(r'<text x="([\d.]+)" y="204"[^>]*>([^<]+)', svg)]
    up = [(float(y), float(t.rstrip("%")) / (100 if "%" in t else 1)) for y, t in re.findall(r'<text x="38" y="([\d.]+)"[^>]*>([^<]+)', svg)]
    scale = (lambda t: t) if "%" in svg else np.log
    fit = lambda marks, to: np.polyfit([m[0] for m in marks], [to(m[1]) for m in marks], 1)
    X, Y = fit(across, float), fit(up, scale)
    points = [tuple(map(float, p.split(","))) for p in re.findall(r'points="([^"]*)"', svg)[place].split()]
    return [(np.polyval(X, x), np.polyval(Y, y) if "%" in svg else np.exp(np.polyval(Y, y))) for x, y in points]


def test_the_page_of_a_run_says_what_was_recorded(run, tmp_path):
    metrics = run(max_steps=40, eval_every=10, log_every=5, oned_families="1d_fill,1d_flip", learning_rate=1e-2)
    folder = tmp_path / "run"
    page, (last,) = page_of(folder), records(folder, "test")
    assert "report: " + str(folder / "report.html") in (folder / "log.txt").read_text().splitlines()[-1]
    for name, key in (("pass@1, plain view", "pass1_single"), ("pass@1", "pass1"), ("pass@2", "pass2"), ("oracle: right in some view", "oracle"),
                      ("1d_fill", "1d_fill"), ("1d_flip", "1d_flip")):
        assert page.value(name) == f"{ {**last, **last['families']}[key]:.1%}"
    for name, key in (("tasks", "tasks"), ("test tasks", "source"), ("views", "views"), ("times scored", "times_scored")):
        assert page.value(name) == str(last[key])
    saved = json.loads((folder / "config.json").read_text())
    assert page.value("commit") == saved["versions"]["commit"] and page.value("python, torch") == f"{saved['versions']['python']}, {saved['versions']['torch']}"
    assert page.value("training") == f"{metrics['train_minutes']:.1f} minutes" and page.value("drafts, votes") == f"{last['seconds'] / 60:.1f} minutes"
    assert page.value("device") == saved["machine"] and page.value("device").startswith("cpu")
    given = page.value("knobs given")
    assert "max_steps = 40" in given and "learning_rate = 0.01" in given and "out_dir = run" in given and str(tmp_path) not in page.source
    trained, val = records(folder, "train"), records(folder, "val")
    assert numbers(page, "loss by step") == [round(trained[-1]["loss"], 4), round(val[-1]["loss"], 4)]
    assert numbers(page, "validation by step") == [round(100 * x, 1) for x in (val[-1]["exact"], max(m["exact"] for m in val))]
    for chart, place, lines, key in ((0, 0, val, "loss"), (0, 1, trained, "loss"), (1, 0, val, "exact")):
        found = np.array(curve(page, chart, place))
        assert np.allclose(found[:, 0], [m["step"] for m in lines], atol=0.1)
        assert np.allclose(found[:, 1], [m[key] for m in lines], rtol=0.01, atol=0.002)
    right = sum(a["words"].partition("✓ right by attempt 1")[1] != "" for a in page.articles)
    answers = json.loads((folder / "submission.json").read_text())
    for article in page.articles:
        ((first, picture),) = [(alt, png) for alt, png in article["images"].items() if alt.startswith("attempt 1")] or [("", None)]
        expected = np.array(answers[article["words"].split(" |")[0]][0]["attempt_1"])
        assert expected.tolist() == [[0]] if picture is None else (read(picture, 18)[0].tolist() == expected.tolist())
    assert len(page.articles) == last["tasks"] and right == round(last["pass1"] * last["tasks"])


def test_the_page_of_a_longer_run(tmp_path):
    """From the records of the README's first run."""
    shutil.copy(ROOT / "results" / "headline" / "seed1.jsonl", tmp_path / "metrics.jsonl")
    metrics = records(tmp_path, "test")[0]
    page = write(tmp_path, [], {}, metrics)
    said = re.findall(r"([\w.]+) minutes", page.words)
    assert said == [f"{records(tmp_path, 'train')[-1]['seconds'] / 60:.1f}", f"{metrics['seconds'] / 60:.1f}"] and float(said[0]) > 4
    for name, value in metrics["families"].items():
        assert page.value(name) == f"{value:.1%}"
    order = [metrics["families"][name] for name in re.findall(r"<th>(1d_\w+)", page.source)]
    assert order == sorted(order) and len(order) == 18
    found = np.array(curve(page, 1, 0))
    assert np.allclose(found, [(m["step"], m["exact"]) for m in records(tmp_path, "val")], rtol=0.01, atol=0.002)


def test_one_family_needs_no_table_and_no_test_set_no_gallery(run, tmp_path):
    run()
    assert "by family" not in page_of(tmp_path / "run").words
    run(out="b", test="", max_steps=2, log_every=1)
    page = page_of(tmp_path / "b")
    assert not page.articles and "test queries" not in page.words and "pass@" not in page.words
    assert len(re.findall("<svg", page.source)) == 2


def test_another_file_solved_gets_a_page_of_its_own(run, tmp_path):
    """The attempts are this file's, and the scores; the curves are the run's. Weights from elsewhere: no curves, no command."""
    run()
    mine = write_tasks(tmp_path / "mine.json", [make_task("only", "12 > 21", "34; 56")])
    run(eval_only=True, tasks=mine)
    page = page_of(tmp_path / "run")
    assert page.value("test tasks") == "mine.json" and "2 – unknown answer." in page.words and "pass@" not in page.words
    assert [a["words"][:4] for a in page.articles] == ["only"] * 2 and "loss by step" in page.words
    run(out="b")
    run(out="b", eval_only=True, tasks=mine, init_from=tmp_path / "run" / "ckpt.pt")
    page = page_of(tmp_path / "b")
    assert len(page.articles) == 2 and "loss by step" not in page.words and "commit" not in page.words


def test_a_refined_run_shows_drafts_too(tmp_path):
    draft, after = [Draft("a", 0, 0, grid("321 600"), -1)], [Draft("a", 0, 0, A.test[0][1], -1)]
    (folder := tmp_path / "mine" / "refine").mkdir(parents=True)
    page = write(folder, [A], score([A], after)[1], dict(single_before=0.0, single_after=1.0, tasks=1), score([A], draft)[1])
    assert page.words.count("mine/refine") == 2 and page.value("plain view, draft → refined") == "0.0% → 100.0%"
    assert "draft |✗ wrong in 2 of 6 cells|attempt 1 |✓ right|" in page.articles[0]["words"] and page.articles[0]["kind"] == "right"


def test_refine_writes_one(run, tmp_path):
    knobs = dict(oned_eval=4, max_answer=40, refine_tasks=20, refine_steps=2, refine_layers=1, refine_corrupt=1, refine_right=0)
    run(**knobs)
    metrics = refine.main(flags(**{**TINY, "out_dir": tmp_path / "run", **knobs}))
    page = page_of(tmp_path / "run" / "refine")
    assert page.value("pass@2") == f"{metrics['pass2_before']:.1%} → {metrics['pass2_after']:.1%}"
    assert len(page.articles) == metrics["tasks"] and all("|draft" in a["words"] for a in page.articles)


def test_a_page_that_cannot_be_drawn_costs_no_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "png", lambda *_: 1 / 0)
    metrics = run()
    folder = tmp_path / "run"
    assert metrics["pass2"] >= 0 and records(folder, "test") and (folder / "submission.json").exists()
    assert "report: not written (ZeroDivisionError" in (folder / "log.txt").read_text().splitlines()[-1] and not (folder / "report.html").exists()


def test_half_a_page_replaces_none(tmp_path, monkeypatch):
    write(tmp_path, [A], {})
    before = (tmp_path / "report.html").read_text()
    monkeypatch.setattr(report, "query", lambda *_: 1 / 0)
    report.write_report(train.Log(tmp_path), Config(out_dir=str(tmp_path)), {}, [A], {})
    assert (tmp_path / "report.html").read_text() == before


def test_overwrite_leaves_no_old_page(run, tmp_path, monkeypatch):
    run()
    monkeypatch.setattr(report, "write_text", lambda *_: 1 / 0)
    run(overwrite=True)
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("text, said", [
    ("/home/me/my tasks/a.json", "a.json"), ("--train=/x/a.json+/y/b.json#100", "--train=a.json+b.json#100"), ("out/look", "out/look"),
    ("a/b.pt, /c/d.pt", "a/b.pt,d.pt"), ("~/a.json", "a.json"), (r"C:\me\a.json", "a.json"), ("arc1:training", "arc1:training"), (0.01, "0.01")])
def test_no_folder_of_the_machine_is_named(text, said):
    assert report.short(text) == said


def test_the_command_is_shown_as_it_was_given(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(dict(command="/opt/me/train.py config/x.py '--tasks=/home/J S/t.json'", given={}, versions={})))
    assert write(tmp_path, [A], {}).value("command") == "train.py config/x.py --tasks=t.json"
