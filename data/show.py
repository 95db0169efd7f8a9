"""Grids in the terminal: two spaces of background colour a cell, as ARC's own viewer paints them."""
import itertools
import os
import sys

PALETTE = [(0, 0, 0), (0, 116, 217), (255, 65, 54), (46, 204, 64), (255, 220, 0),
           (170, 170, 170), (240, 18, 190), (255, 133, 27), (127, 219, 255), (135, 12, 37)]


def use_color():
    """Colour goes to terminals, not to files; NO_COLOR and FORCE_COLOR overrule (no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()


def cell(value, color, wrong=False):
    mark = "><" if wrong else "  "
    if not color:
        return f"{value}!" if wrong else f"{value} "
    r, g, b = PALETTE[value]
    ink = 30 if 299 * r + 587 * g + 114 * b > 128000 else 97
    return f"\033[{ink};48;2;{r};{g};{b}m{mark}\033[0m"


def grid(values, answer=None):
    """Lines of a grid (H, W). Where it differs from an answer of the same shape, cells are marked."""
    color, compare = use_color(), answer is not None and answer.shape == values.shape
    return ["".join(cell(int(v), color, compare and answer[r, c] != v) for c, v in enumerate(row)) for r, row in enumerate(values)]


def beside(blocks, titles, gap="   "):
    """Blocks of lines next to each other under their titles. Widths are of the grids, as colour codes take no room."""
    widths = [max(len(title), 2 * width) for title, (_, width) in zip(titles, blocks)]
    lines = [gap.join(title.ljust(width) for title, width in zip(titles, widths))]
    for row in itertools.zip_longest(*(lines for lines, _ in blocks)):
        lines.append(gap.join((text or "") + " " * (width - (2 * own if text is not None else 0))
                              for text, width, (_, own) in zip(row, widths, blocks)))
    return "\n".join(line.rstrip() for line in lines)


def row(grids, titles, answer=None):
    """Grids next to each other; None is shown as "no grid". The last one is compared with the answer, if there is one."""
    blocks = [(["no grid"], 4) if g is None else (grid(g, answer if i == len(grids) - 1 else None), g.shape[1])
              for i, g in enumerate(grids)]
    return beside(blocks, titles)


def task(task):
    """A task: its demonstrations, then its queries."""
    parts = [f"task {task.id}: {len(task.train)} demonstrations, {len(task.test)} queries"]
    for kind, pairs in (("demonstration", task.train), ("query", task.test)):
        for i, (a, b) in enumerate(pairs):
            parts.append(row([a, b], [f"{kind} {i}: input {a.shape[0]}x{a.shape[1]}",
                                      "output" + ("" if b is None else f" {b.shape[0]}x{b.shape[1]}")]))
    return "\n\n".join(parts)


def svg(rows, names, size=12, gap=28):
    """A picture of rows of grids: each row a list of (title, grid or None, answer or None), cells `size` pixels wide. Cells that
    differ from the answer are crossed out; under each grid with an answer stands whether it is right."""
    out, y, widest = [], 8, 0
    text = lambda x, y, words, weight=400: (f'<text x="{x}" y="{y}" font-family="sans-serif" font-size="11" fill="#777" '
                                            f'font-weight="{weight}">{words}</text>')
    for name, row in zip(names, rows):
        out.append(text(8, y + 10, name, 700))
        x, tallest = 8, 0
        for title, values, answer in row:
            H, W = values.shape if values is not None else (1, 4)
            right = answer is not None and values is not None and values.shape == answer.shape and (values == answer).all()
            verdict = "" if answer is None else ": right" if right else ": wrong" if values is not None else ": no grid"
            out.append(text(x, y + 24, title + verdict))
            for r, line in enumerate(values if values is not None else []):
                for c, v in enumerate(line):
                    a, b = x + c * size, y + 30 + r * size
                    out.append(f'<rect x="{a}" y="{b}" width="{size}" height="{size}" fill="rgb{PALETTE[v]}" stroke="#555"/>')
                    if answer is not None and values.shape == answer.shape and answer[r, c] != v:
                        out.append(f'<path d="M{a + 2} {b + 2}L{a + size - 2} {b + size - 2}" stroke="#fff" stroke-width="2"/>')
            x += max(W * size, 80) + gap
            tallest = max(tallest, H * size)
        y, widest = y + tallest + 42, max(widest, x)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{widest}" height="{y}">' + "".join(out) + "</svg>\n"
