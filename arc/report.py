"""report.html: a run on one page, for people, who look at grids.

train.py and refine.py write the page last, from the folder's metrics.jsonl and config.json and the
attempts they have just made. It is one file without scripts that fetches nothing.
"""
import base64
import json
import math
import re
import shlex
import struct
import zlib
from html import escape

import numpy as np

from arc.files import write_text
from arc.oned import dimension_of
from arc.score import same
from arc.show import LIGHT, PALETTE, compare

QUERIES = 100                                  # most queries on a page ...
DEMOS = 3                                      # ... and demonstrations of each
NEAR = 5                                       # most wrong cells of a near miss
VERDICTS = ["✗ near miss", "✗ wrong", "– unknown answer", "✓ right by attempt 2",
            "✓ right by attempt 1"]            # in the page's order
SCORES = {                                     # metric -> its name and what has to be right
    "pass1_single": ("pass@1, plain view", "the prediction for the task as it is, no vote"),
    "single": ("plain view, prediction → refined", "of the task as it is, no vote"),
    "pass1": ("pass@1", "the first attempt, after the vote"),
    "pass2": ("pass@2", "one of the two best attempts"),
    "oracle": ("oracle", "a prediction under any view"),
}


def write_report(log, config, metrics, tasks, attempts, before=None):
    """Writes log.folder/report.html.

    metrics and tasks: of the test set; without tasks there is no gallery. attempts: {(task id,
    test number): grids best first}; before: the attempts before refinement, if there was one.
    """
    if not log.writes:                         # rank 0 does
        return
    path = log.folder / "report.html"
    try:
        write_text(path, page(log, config, metrics, tasks, attempts, before))
        log(f"report: {path}")
    except Exception as error:                 # the scores are saved: a page may not cost the run
        log(f"report: not written ({type(error).__name__}: {error})")


def page(log, config, metrics, tasks, attempts, before):
    """Returns the HTML of `write_report`."""
    saved = read(log.folder / "config.json")
    records = [m for m in log.records() if m["kind"] in ("train", "val")]
    call = saved
    if config.eval_only and not config.tasks:  # in the folder of a run, which keeps its config.json
        call = read(log.folder / "eval.json")
        if config.init_from:                   # weights from elsewhere: its facts are not theirs
            saved, records = {}, []
    names = log.folder.resolve().parts
    title = escape("/".join(names[-2 if names[-1] == "refine" else -1:]))
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        in_row(tiles(metrics)),
        table("facts", facts(config, metrics, saved, call, records)),
        in_row(charts(records)),
        family_tables(metrics.get("families", {})),
        gallery(tasks, attempts, before) if tasks else "",
        "</body></html>\n",
    ]
    return "\n".join(parts)


def read(path):
    return json.loads(path.read_text()) if path.exists() else {}


def in_row(boxes):
    return f'<div class="row">{boxes}</div>'


def table(kind, rows):
    lines = [f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows]
    return f'<table class="{kind}">{"".join(lines)}</table>'


# ------------------------------------------------------------------------------------------------
# Numbers


def tiles(metrics):
    """Returns the scores, each in a box: before and after refinement where there are both."""
    values = []
    for metric, (name, meaning) in SCORES.items():
        keys = [key for key in (metric, f"{metric}_before", f"{metric}_after") if key in metrics]
        values.append((name, " → ".join(f"{metrics[key]:.1%}" for key in keys), meaning))
    values.append(("tasks", metrics.get("tasks"), "each counts once"))
    boxes = ""
    for name, value, meaning in values:
        if value:
            boxes += (f'<div class="score">{name}<br><b>{value}</b><br>'
                      f"<small>{meaning}</small></div>")
    return boxes


def minutes(seconds):
    return f"{seconds / 60:.1f} minutes"


def without_folders(text):
    """Returns a text whose paths from the root have lost their folders.

    A page travels, and need not say whose machine it comes from.
    """
    return re.sub(r"(^|[=+,])\s*([/~]|[A-Za-z]:[/\\])[^=+,]*[/\\]", r"\1", str(text))


def command_of(saved):
    return " ".join(map(without_folders, shlex.split(saved.get("command", ""))))


def facts(config, metrics, saved, call, records):
    """Returns (name, value) of what a reader may ask of a run, as far as it is known.

    saved: config.json of the run that trained; call: that of the run that predicted.
    """
    versions = call.get("versions", {})
    given = call.get("given", {}).items()
    values = {
        "command": command_of(call),
        "training command": "" if call is saved else command_of(saved),
        "test tasks": without_folders(config.test),
        "views": config.views if config.test else "",
        "pretrained": without_folders(metrics.get("pretrained") or ""),
        "times scored": metrics.get("times_scored"),
        "training": minutes(records[-1]["seconds"]) if records else "",
        "predictions, votes": minutes(metrics["seconds"]) if "seconds" in metrics else "",
        "device": call.get("machine"),
        "hash of the tasks": saved.get("data", "")[:12],
        "commit": versions.get("commit"),
        "python, torch": versions and f"{versions['python']}, {versions['torch']}",
        "knobs given": ", ".join(f"{key} = {without_folders(value)}" for key, value in given),
    }
    return [(name, str(value)) for name, value in values.items() if value]


def family_tables(families):
    """Returns tables of the mean of each family, lowest first, 1D and 2D apart."""
    if len(families) < 2:
        return ""
    groups = {"1d": [], "2d": [], "": []}
    for name in sorted(families, key=lambda name: (families[name], name)):
        groups[dimension_of(name)].append((name, f"{families[name]:.1%}"))
    tables = [table("share", rows) for rows in groups.values() if rows]
    return f"<h2>Exact by family, plain view, lowest first</h2>{in_row(''.join(tables))}"


# ------------------------------------------------------------------------------------------------
# Curves

TICKS = [m * 10.0 ** e for e in range(-9, 10) for m in (1, 2, 5)]
LEFT, RIGHT, TOP, BOTTOM = 44, 400, 14, 186    # of a chart's axes, in a drawing of 420 x 210


def curve(records, kind, key, least=1e-9):
    """Returns [(step, value)], without the values that a log scale does not show."""
    return [(m["step"], m[key]) for m in records if m["kind"] == kind and least < m[key] < 1e9]


def charts(records):
    """Returns the charts of the loss and of exact grids by step."""
    train = curve(records, "train", "loss")
    val = curve(records, "val", "loss")
    exact = curve(records, "val", "exact", least=-1)
    named = {"training (grey)": train, "validation (dots)": val}
    ends = [f"{name} {points[-1][1]:.4f}" for name, points in named.items() if points]
    drawn = ""
    if ends:
        caption = f"loss by step, log scale; at the end {', '.join(ends)}"
        drawn += chart(caption, val, train)
    if exact:
        top = max(value for _, value in exact)
        caption = f"validation by step, exact grids; at the end {exact[-1][1]:.1%}, best {top:.1%}"
        drawn += chart(caption, exact, share=True)
    return drawn


def chart(caption, dotted, grey=(), share=False):
    """Returns an SVG of two curves [(step, value)], on a log scale or, as shares, from 0 to 1."""
    steps, values = zip(*dotted, *grey)
    last = max(steps) or 1
    ticks = [0, 0.25, 0.5, 0.75, 1]
    if not share:                              # neighbors differ by 2.5 times at most
        ticks = [tick for tick in TICKS if min(values) / 2.5 < tick < max(values) * 2.5]

    def x(step):
        return f"{LEFT + (RIGHT - LEFT) * step / last:.1f}"

    def y(value):
        if not share:
            value = math.log(value / ticks[0]) / math.log(ticks[-1] / ticks[0])
        return f"{BOTTOM - (BOTTOM - TOP) * value:.1f}"

    body = ""
    for tick in ticks[::3 if len(ticks) > 10 else 1]:
        label = f"{tick:.0%}" if share else f"{tick:g}"
        body += (f'<path d="M{LEFT} {y(tick)}H{RIGHT}" stroke="#8885"/><text x="{LEFT - 6}" '
                 f'y="{y(tick)}" dy="4" text-anchor="end">{label}</text>')
    apart = next(tick for tick in TICKS if tick >= max(1, last / 5))
    for step in range(0, last + 1, int(apart)):
        body += f'<text x="{x(step)}" y="204" text-anchor="middle">{step}</text>'
    for points, color in ((dotted, "currentColor"), (grey, "#888")):
        line = " ".join(f"{x(step)},{y(value)}" for step, value in points)
        body += f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>'
    for step, value in dotted:
        body += f'<circle cx="{x(step)}" cy="{y(value)}" r="2.5" fill="currentColor"/>'
    return (f'<figure class="curve"><figcaption>{caption}</figcaption><svg viewBox="0 0 420 210" '
            f'font-size="12" role="img" aria-label="{caption}">{body}</svg></figure>')


# ------------------------------------------------------------------------------------------------
# The gallery of queries


def gallery(tasks, attempts, before):
    """Returns the queries, near misses first, with how many there are and are left out."""
    cards = []
    for task in tasks:
        for i, (_, target) in enumerate(task.test):
            grids = best(attempts, (task.id, i), 2)
            tried = [(f"attempt {k}", grid) for k, grid in enumerate(grids, 1)]
            if before is not None:
                tried = [("prediction", *best(before, (task.id, i), 1))] + tried
            cards.append((judge(grids, target), task, i, tried))
    cards.sort(key=lambda card: (VERDICTS.index(card[0][0]), card[0][1]))
    cut = ""
    if len(cards) > QUERIES:
        cut = (f" Not shown, to keep this page small: {len(cards) - QUERIES} "
               f"({count_verdicts(cards[QUERIES:])}).")
    intro = (f"<h2>{len(cards)} test queries</h2><p>{count_verdicts(cards)}. Near misses come "
             f"first, in which at most {NEAR} cells, and fewer than half, are wrong, the fewest "
             "first. Cells that differ from the target are crossed out; where all views agree "
             "there is no second attempt."
             f'{cut}</p><label><input type="checkbox"> digits in the cells</label>')
    return "\n".join([intro] + [query_card(*card) for card in cards[:QUERIES]])


def best(attempts, key, count):
    """Returns the first grids of a query, or [None] where there are none."""
    return attempts.get(key, [])[:count] or [None]


def judge(grids, target):
    """Returns (one of VERDICTS, the fewest wrong cells) of the attempts at a query."""
    if target is None:
        return "– unknown answer", 0
    for k, grid in enumerate(grids, 1):
        if same(grid, target):
            return f"✓ right by attempt {k}", 0
    wrong = [(grid != target).sum() for grid in grids if np.shape(grid) == target.shape]
    fewest = min(wrong, default=math.inf)      # where each has another size
    near = fewest <= NEAR and 2 * fewest < target.size
    return "✗ near miss" if near else "✗ wrong", fewest


def count_verdicts(cards):
    found = [verdict for (verdict, _), *_ in cards]
    return ", ".join(f"{found.count(name)} {name}" for name in VERDICTS if name in found)


def query_card(judged, task, i, tried):
    """Returns query i of a task as HTML: demonstrations, query, target, and what was tried.

    judged: see `judge`; tried: [(name, grid or None)].
    """
    verdict, _ = judged
    query, target = task.test[i]
    outputs = [grid for grid in (target, *dict(tried).values()) if grid is not None]
    # flat grids stand above each other
    wide = all(grid.shape[1] > 3 * grid.shape[0] for grid in [query] + outputs)
    side = 300 if wide else 180                # pixels; a phone has 320
    cell = cell_size(outputs, 18, side)
    figures = figure("query", query, cell_size([query], 18, side))
    if target is not None:
        figures += figure("target", target, cell)
    for name, grid in tried:
        figures += figure(name, grid, cell, target)

    demos = ""
    pairs = task.train[:DEMOS]
    cells = [cell_size(grids, 8, side * 2 // 3) for grids in zip(*pairs)]
    for k, pair in enumerate(pairs, 1):
        left, right = map(figure, (f"input {k}", f"output {k}"), pair, cells)
        demos += f"<div>{left}{right}</div>"
    if len(task.train) > DEMOS:
        demos += f"<p>{len(task.train) - DEMOS} more demonstrations</p>"

    kind = verdict.split()[1]
    which = f", query {i + 1} of {len(task.test)}" if len(task.test) > 1 else ""
    return (f'<article class="{kind}{" wide" * wide}"><h3>{escape(task.id)}{which} '
            f'<b class="{kind}">{verdict}</b></h3><div>{demos}</div><div>{figures}</div></article>')


def cell_size(grids, most, side):
    """Returns the pixels of a cell, 3 to `most`, such that the longest grid takes about `side`."""
    longest = max((max(grid.shape) for grid in grids), default=1)
    return max(3, min(most, side // longest))


def figure(name, grid, cell, target=None):
    """Returns a grid, or None, under its name and, given the target, what is wrong with it."""
    verdict, wrong = compare(grid, target)
    caption = name
    if verdict:
        caption += f' <b class="{verdict.split()[1]}">{verdict}</b>'
    image = "no grid"
    if grid is not None:
        H, W = grid.shape
        words = f"{name}, {H} x {W} cells" + (f": {verdict[2:]}" if verdict else "")
        data = base64.b64encode(png(grid, cell, wrong)).decode()
        digits = "\n".join("".join(map(str, row)) for row in grid)
        image = (f'<div class="grid" style="--cell:{cell}px"><img alt="{words}" '
                 f'src="data:image/png;base64,{data}"><pre>{digits}</pre></div>')
    return f"<figure><figcaption>{caption}</figcaption>{image}</figure>"


# ------------------------------------------------------------------------------------------------
# Grids as pictures

LINE, WHITE = 10, 11                           # two colors beside ARC's
RGB = np.array([*PALETTE, (85, 85, 85), (255, 255, 255)], np.uint8)
INK = np.where(LIGHT, 0, WHITE)                # to mark a cell of each color


def png(grid, cell, wrong=None):
    """Returns a grid (H, W) as a PNG with `cell` pixels from line to line.

    Cells are crossed out where `wrong` (H, W) is true. Format: w3.org/TR/png.
    """
    H, W = grid.shape
    cells = grid.repeat(cell, 0).repeat(cell, 1)
    if wrong is not None:
        row, column = np.indices((cell, cell))
        cross = np.minimum(abs(row - column), abs(row + column - cell)) <= cell // 9
        cells = np.where(np.kron(wrong, cross), INK[cells], cells)
    rows = np.pad(cells.astype(np.uint8), ((0, 1), (1, 1)))    # a row begins with its filter: none
    rows[::cell, 1:] = LINE
    rows[:, 1::cell] = LINE
    contents = {
        b"IHDR": struct.pack(">IIBBBBB", W * cell + 1, H * cell + 1, 8, 3, 0, 0, 0),
        b"PLTE": RGB.tobytes(),
        b"IDAT": zlib.compress(rows.tobytes(), 9),
        b"IEND": b"",
    }
    image = b"\x89PNG\r\n\x1a\n"
    for kind, data in contents.items():
        image += struct.pack(">I", len(data)) + kind + data
        image += struct.pack(">I", zlib.crc32(kind + data))
    return image


# ------------------------------------------------------------------------------------------------
# The page's style

STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #666; --paper: #fff; --box: #f2f2f0;
  --right: #14742b; --wrong: #b3261e; --curve: #0b62c4 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --soft: #a0a0a0; --paper: #161616; --box: #242424;
    --right: #6fd388; --wrong: #ff8a80; --curve: #6cb2ff } }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; font: 15px/1.45 system-ui, sans-serif;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 1.5rem }
h2 { font-size: 1.2rem; margin-top: 2rem }
h3 { font-size: 1rem; margin: 0 0 .6rem; color: var(--ink) }
h1, h3, th, td { overflow-wrap: anywhere }
p, th, figcaption { color: var(--soft); font-size: .85rem; font-weight: 400; text-align: left }
table { margin-bottom: 1rem; align-self: start }
th, td { padding: .1rem 1rem .1rem 0; vertical-align: top }
.facts th { white-space: nowrap }
.share td { text-align: right }
.row { display: flex; flex-wrap: wrap; gap: .7rem 1.3rem }
figure { margin: 0; max-width: 100% }
.curve { flex: 1 1 20rem; max-width: 34rem }
.score, article { background: var(--box); padding: .6rem .8rem; border-radius: 6px;
  margin-bottom: 1rem; break-inside: avoid }
.score b { font-size: 1.3rem }
article { border-left: 5px solid }
.right { color: var(--right) }
.near, .wrong { color: var(--wrong) }
article p { margin: 0 }
article > div, article > div > div, article figure { display: inline-block; max-width: 100%;
  vertical-align: top; margin: 0 0 .4rem }
article figure { padding-right: .9rem; box-sizing: border-box }
article.wide figure { display: block }
img { display: block; max-width: 100%; image-rendering: pixelated }
label { position: sticky; top: 0; z-index: 1; display: block; padding: .5rem 0;
  background: var(--paper) }
pre { display: none; margin: 0 }
@media print { label { display: none } }
:has(:checked) ~ article {
  figure { overflow-x: auto }
  .grid { display: inline-block; position: relative; padding: 0 1px 1px 0;
    --side: max(var(--cell), 12px) }
  img { position: absolute; width: 100%; height: 100% }
  pre { display: block; position: relative; left: calc((var(--side) - 1ch + 1px) / 2);
    font: calc(.8 * var(--side)) / var(--side) monospace; letter-spacing: calc(var(--side) - 1ch);
    color: #fff; text-shadow: 0 1px #000, 0 -1px #000, 1px 0 #000, -1px 0 #000;
    print-color-adjust: exact }
}
svg { display: block; color: var(--curve); fill: var(--soft) }
"""
