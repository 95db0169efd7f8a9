"""Grids in the terminal: two spaces of background colour a cell, as ARC's own viewer paints them."""
import itertools
import os
import sys

PALETTE = [(0, 0, 0), (0, 116, 217), (255, 65, 54), (46, 204, 64), (255, 220, 0),
           (170, 170, 170), (240, 18, 190), (255, 133, 27), (127, 219, 255), (135, 12, 37)]


def use_color(stream=None):
    """Colour goes to terminals, not to files; NO_COLOR and FORCE_COLOR overrule (no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream or sys.stdout).isatty()


def cell(value, color, wrong=False):
    mark = "><" if wrong else "  "
    if not color:
        return f"{value}!" if wrong else f"{value} "
    r, g, b = PALETTE[value]
    ink = 30 if 299 * r + 587 * g + 114 * b > 128000 else 97
    return f"\033[{ink};48;2;{r};{g};{b}m{mark}\033[0m"


def grid(values, color=None, answer=None):
    """Lines of a grid (H, W). Where it differs from an answer of the same shape, cells are marked."""
    color = use_color() if color is None else color
    compare = answer is not None and answer.shape == values.shape
    return ["".join(cell(int(v), color, compare and answer[r, c] != v) for c, v in enumerate(row)) for r, row in enumerate(values)]


def beside(blocks, titles, gap="   "):
    """Blocks of lines next to each other under their titles. Widths are of the grids, as colour codes take no room."""
    widths = [max(len(title), 2 * width) for title, (_, width) in zip(titles, blocks)]
    lines = [gap.join(title.ljust(width) for title, width in zip(titles, widths))]
    for row in itertools.zip_longest(*(lines for lines, _ in blocks)):
        lines.append(gap.join((text or "") + " " * (width - (2 * own if text is not None else 0))
                              for text, width, (_, own) in zip(row, widths, blocks)))
    return "\n".join(line.rstrip() for line in lines)


def row(grids, titles, color=None, answer=None):
    """Grids next to each other; None is shown as "no grid". The last one is compared with the answer, if there is one."""
    blocks = [(["no grid"], 4) if g is None else (grid(g, color, answer if i == len(grids) - 1 else None), g.shape[1])
              for i, g in enumerate(grids)]
    return beside(blocks, titles)


def task(task, color=None):
    """A task: its demonstrations, then its queries."""
    parts = [f"task {task.id}: {len(task.train)} demonstrations, {len(task.test)} queries"]
    for kind, pairs in (("demonstration", task.train), ("query", task.test)):
        for i, (a, b) in enumerate(pairs):
            parts.append(row([a, b], [f"{kind} {i}: input {a.shape[0]}x{a.shape[1]}",
                                      "output" + ("" if b is None else f" {b.shape[0]}x{b.shape[1]}")], color))
    return "\n\n".join(parts)
