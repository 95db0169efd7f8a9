"""report.html: a run on one page, for people, who look at grids and don't read them. One file, no script, nothing to fetch.

train.py and refine.py write it last, from the folder's metrics.jsonl and config.json and the attempts they have just made.
"""
import base64
import json
import math
import re
import shlex
import struct
import zlib
from bisect import bisect_left, bisect_right
from html import escape

import numpy as np

from data.score import same, write_text
from data.show import PALETTE

SHOWN, DEMOS = 100, 3                                          # queries on the page, demonstrations of each
LINE, WHITE = 10, 11                                           # colours beyond ARC's
RGB = np.array([*PALETTE, (85, 85, 85), (255, 255, 255)], np.uint8)
INK = np.where(RGB @ np.array([299, 587, 114]) > 128000, 0, WHITE).astype(np.uint8)    # black or white, to mark a cell of each colour
TICKS = [m * 10.0 ** e for e in range(-9, 10) for m in (1, 2, 5)]
SCORES = dict(pass1_single="pass@1, plain view", single="plain view, draft → refined", pass1="pass@1", pass2="pass@2",
              oracle="oracle: right in some view")
STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #666; --paper: #fff; --box: #f2f2f0; --right: #14742b; --wrong: #b3261e; --curve: #0b62c4 }
@media (prefers-color-scheme: dark) { :root {
  --ink: #ddd; --soft: #a0a0a0; --paper: #161616; --box: #242424; --right: #6fd388; --wrong: #ff8a80; --curve: #6cb2ff } }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem } h3 { font-size: 1rem; margin: 0 0 .6rem; color: var(--ink) }
h1, h3, th, td { overflow-wrap: anywhere } p, th, figcaption { color: var(--soft); font-size: .85rem; font-weight: 400; text-align: left }
table { margin-bottom: 1rem } th, td { padding: .1rem 1rem .1rem 0; vertical-align: top }
.facts th { white-space: nowrap } .share td { text-align: right }
.row { display: flex; flex-wrap: wrap; gap: .7rem 1.3rem } figure { margin: 0; max-width: 100% } .curve { flex: 1 1 20rem; max-width: 34rem }
.score, article { background: var(--box); padding: .6rem .8rem; border-radius: 6px; margin-bottom: 1rem } .score b { font-size: 1.3rem }
article { border-left: 5px solid } .right { color: var(--right) } .wrong { color: var(--wrong) } article p { margin: 0 }
article div, article figure { display: inline-block; vertical-align: top; margin: 0 .9rem .4rem 0 } article.wide figure { display: block }
img { display: block; max-width: 100%; image-rendering: pixelated } svg { display: block; color: var(--curve); fill: var(--soft) }
"""


def short(text):
    """Paths from the root without their folders: a page travels, and need not say whose machine it is from."""
    return re.sub(r"(^|[=+,])\s*([/~]|[A-Za-z]:[/\\])[^=+,]*[/\\]", r"\1", str(text))


def png(grid, cell, wrong=None):
    """(H, W) -> a PNG, `cell` pixels from line to line; where `wrong`, cells are crossed out."""
    H, W = cell * grid.shape[0] + 1, cell * grid.shape[1] + 1
    cells = np.broadcast_to(grid[:, :, None, None], (*grid.shape, cell, cell))
    if wrong is not None:
        row, column = np.indices((cell, cell))
        cross = np.minimum(abs(row - column), abs(row + column - cell)) <= cell // 9
        cells = np.where(wrong[:, :, None, None] & cross, INK[cells], cells)
    pixels = np.full((H, W + W % 2), LINE, np.uint8)
    pixels[:-1, :W - 1] = cells.swapaxes(1, 2).reshape(H - 1, W - 1)
    pixels[::cell] = pixels[:, :W:cell] = LINE
    rows = np.pad(pixels[:, ::2] << 4 | pixels[:, 1::2], ((0, 0), (1, 0))).tobytes()       # two pixels a byte; a row's filter comes first: none
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 4, 3, 0, 0, 0)) + chunk(b"PLTE", RGB.tobytes())
            + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def figure(name, grid, cell, answer=None):
    """A grid under its name and, given the answer, what is right or wrong with it."""
    wrong = grid != answer if grid is not None and answer is not None and grid.shape == answer.shape else None
    words = ("" if answer is None else "✗ wrong" if grid is None else "✗ wrong size" if wrong is None
             else f"✗ wrong in {wrong.sum()} of {wrong.size} cells" if wrong.any() else "✓ right")
    verdict = words and f' <b class="{words.split()[1]}">{words}</b>'
    image = "no grid" if grid is None else (f'<img alt="{name}, {grid.shape[0]} x {grid.shape[1]} cells{words and ": " + words[2:]}" '
                                            f'src="data:image/png;base64,{base64.b64encode(png(grid, cell, wrong)).decode()}">')
    return f"<figure><figcaption>{name}{verdict}</figcaption>{image}</figure>"


def query(task, i, tried, verdict):
    """One query with demonstrations of its task, its answer, and what was tried: [(name, grid or None)]."""
    (asked, answer), pairs = task.test[i], task.train[:DEMOS]
    sides = [grid.shape for grid in (asked, answer, *(grid for _, grid in tried)) if grid is not None]
    cell = max(3, min(18, 180 // np.max(sides)))               # pixels: 180 for the longest side, a phone is wider
    small = max(3, min(8, 120 // max(side for pair in pairs for grid in pair for side in grid.shape))) if pairs else 0
    demos = [f'<div>{figure(f"input {k}", a, small)}{figure(f"output {k}", b, small)}</div>' for k, (a, b) in enumerate(pairs, 1)]
    shown = [figure("query", asked, cell)] + [figure("answer", answer, cell)] * (answer is not None)
    shown += [figure(name, grid, cell, answer) for name, grid in tried]
    which = f", query {i + 1} of {len(task.test)}" if len(task.test) > 1 else ""
    more = f"<p>{len(task.train) - DEMOS} more demonstrations</p>" if len(task.train) > DEMOS else ""
    kind, wide = verdict.split()[1], "wide" if all(W > 3 * H for H, W in sides) else ""    # flat grids stand above each other
    return (f'<article class="{kind} {wide}"><h3>{escape(task.id)}{which} <b class="{kind}">{verdict}</b></h3>'
            f"<div>{''.join(demos)}{more}</div><div>{''.join(shown)}</div></article>")


def gallery(tasks, attempts, before):
    """The queries, wrong ones first, and how many of each kind there are and are left out."""
    verdicts, found = ("✗ wrong", "✓ right by attempt 2", "✓ right by attempt 1", "– unknown answer"), []
    for task in tasks:
        for i, (_, answer) in enumerate(task.test):
            grids = attempts.get((task.id, i), [])[:2] or [None]
            right = [k for k, grid in enumerate(grids) if answer is not None and same(grid, answer)]
            tried = [] if before is None else [("draft", (before.get((task.id, i)) or [None])[0])]
            tried += [(f"attempt {k}", grid) for k, grid in enumerate(grids, 1)]
            found.append((3 if answer is None else 2 - right[0] if right else 0, task, i, tried))
    found.sort(key=lambda q: q[0])
    count = lambda some: ", ".join(f"{n} {words}" for k, words in enumerate(verdicts) if (n := sum(q[0] == k for q in some)))
    cut = f" Not shown, to keep this page small: {len(found) - SHOWN} ({count(found[SHOWN:])})." if len(found) > SHOWN else ""
    return (f"<h2>{len(found)} test queries</h2><p>{count(found)}. Wrong ones come first; cells that differ from the answer are crossed out; where "
            f"all views agree there is no second attempt.{cut}</p>" + "\n".join(query(*rest, verdicts[k]) for k, *rest in found[:SHOWN]))


def chart(caption, curves, share=False):
    """An SVG of curves [[(step, value)]], the last one with dots: on a log scale or, as shares, from 0 to 1."""
    values, last = [y for curve in curves for _, y in curve], max(x for curve in curves for x, _ in curve) or 1
    low = bisect_right(TICKS, min(values)) - 1
    ticks = [0, 0.25, 0.5, 0.75, 1] if share else TICKS[low:max(bisect_left(TICKS, max(values)), low + 1) + 1]
    up = lambda y: y if share else math.log(y / ticks[0]) / math.log(ticks[-1] / ticks[0])
    X, Y = lambda x: f"{44 + 356 * x / last:.1f}", lambda y: f"{186 - 172 * up(y):.1f}"
    out = [f'<path d="M44 {Y(t)}H400" stroke="#8885"/><text x="38" y="{Y(t)}" dy="4" text-anchor="end">{format(t, ".0%" if share else "g")}</text>'
           for t in ticks[::1 + 2 * (len(ticks) > 10)]]
    step = max(1, TICKS[bisect_left(TICKS, last / 5)])
    out += [f'<text x="{X(x)}" y="204" text-anchor="middle">{x:.0f}</text>' for x in np.arange(0, last + 1, step)]
    for curve, color in zip(curves[::-1], ("currentColor", "#888")):
        out.append(f'<polyline points="{" ".join(f"{X(x)},{Y(y)}" for x, y in curve)}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        out += [f'<circle cx="{X(x)}" cy="{Y(y)}" r="2.5" fill="{color}"/>' for x, y in curve if color != "#888"]
    return (f'<figure class="curve"><figcaption>{caption}</figcaption><svg viewBox="0 0 420 210" font-size="12" role="img" aria-label="{caption}">'
            f'{"".join(out)}</svg></figure>')


def page(log, config, metrics, tasks, attempts, before):
    """-> the HTML of write_report."""
    path, records = log.folder / "config.json", log.records()
    saved = json.loads(path.read_text()) if path.exists() else {}
    if config.eval_only and config.init_from:                  # weights from elsewhere: what the folder says is of others
        saved, records = {}, []
    ran, trained = saved.get("versions", {}), [m for m in records if m["kind"] in ("train", "val")]
    facts = {"test tasks": short(config.test), "views": metrics.get("views"), "times scored": metrics.get("times_scored"),
             "training": trained and f"{trained[-1]['seconds'] / 60:.1f} minutes",
             "drafts, votes": "seconds" in metrics and f"{metrics['seconds'] / 60:.1f} minutes", "device": saved.get("machine"),
             "command": " ".join(map(short, shlex.split(saved.get("command", "")))), "commit": ran.get("commit"),
             "python, torch": ran and f"{ran['python']}, {ran['torch']}",
             "knobs given": ", ".join(f"{key} = {short(value)}" for key, value in saved.get("given", {}).items())}
    title = "/".join(log.folder.resolve().parts[-2 if log.folder.name == "refine" else -1:])
    scores = {name: " → ".join(f"{metrics[k]:.1%}" for k in (key, f"{key}_before", f"{key}_after") if k in metrics) for key, name in SCORES.items()}
    tiles = [f'<div class="score">{name}<br><b>{value}</b></div>' for name, value in {**scores, "tasks": metrics.get("tasks")}.items() if value]
    lines = [f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items() if value]
    out = [f'<h1>{escape(title)}</h1><div class="row">', *tiles, '</div><table class="facts">', *lines, '</table><div class="row">']
    train, val, exact = ([(m["step"], m[key]) for m in trained if m["kind"] == kind and (key == "exact" or 1e-9 < m[key] < 1e9)]
                         for kind, key in (("train", "loss"), ("val", "loss"), ("val", "exact")))
    if train or val:
        ends = ", ".join(f"{name} {curve[-1][1]:.4f}" for name, curve in (("training (grey)", train), ("validation (dots)", val)) if curve)
        out.append(chart(f"loss by step, log scale; at the end {ends}", [train, val]))
    if exact:
        out.append(chart(f"validation by step, exact grids; at the end {exact[-1][1]:.1%}, best {max(y for _, y in exact):.1%}", [exact], True))
    families = sorted((value, name) for name, value in metrics.get("families", {}).items())
    if len(families) > 1:
        groups = [[f for f in families if (f[1][:3] if f[1][:3] in ("1d_", "2d_") else "") == kind] for kind in ("1d_", "2d_", "")]
        tables = ["".join(f"<tr><th>{escape(name)}</th><td>{value:.1%}</td></tr>" for value, name in group) for group in groups if group]
        out += ['</div><h2>Exact by family, plain view, lowest first</h2><div class="row">', *(f'<table class="share">{t}</table>' for t in tables)]
    out += ["</div>", gallery(tasks, attempts, before) if tasks else ""]
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(out) + "\n</body></html>\n")


def write_report(log, config, metrics, tasks=(), attempts=None, before=None):
    """Write log.folder/report.html. attempts, and before them drafts if they were refined: {(task id, query): grids, best first}."""
    path = log.folder / "report.html"
    try:
        write_text(path, page(log, config, metrics, tasks, attempts or {}, before))
        log(f"report: {path}")
    except Exception as error:                                 # whatever it is: scores are saved, and a picture of them costs no run
        log(f"report: not written ({type(error).__name__}: {error})")
