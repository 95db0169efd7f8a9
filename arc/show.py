"""Grids in the terminal, each cell two columns of its color, as ARC's own viewer paints them.

    python -m arc.show FILE TASK       one task: grids in color, every token with its coordinates
    python -m arc.show oned 1d_flip    the same for a generated task; 2d_flip is one lifted to 2D
"""
import difflib
import os
import shutil
import sys

import numpy as np

from arc import oned
from arc.sources import load_tasks
from arc.tokens import NAMES, encode_pair, trace
from config import UserError

PALETTE = [(0, 0, 0), (0, 116, 217), (255, 65, 54), (46, 204, 64), (255, 220, 0),
           (170, 170, 170), (240, 18, 190), (255, 133, 27), (127, 219, 255), (135, 12, 37)]
# whether black is easier to read on a color than white: by its brightness, at most 255,000
LIGHT = [299 * red + 587 * green + 114 * blue > 128000 for red, green, blue in PALETTE]


def use_color():
    """Color goes to terminals, not to files; NO_COLOR and FORCE_COLOR overrule (no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()


def cell_text(value, wrong):
    """Returns a cell, two columns wide. Without the color codes it is a digit, marked if wrong."""
    text = f"{value}!" if wrong else f"{value} "
    if not use_color():
        return text
    color = "{};{};{}".format(*PALETTE[value])
    ink = color                                # a digit that cannot be seen
    if wrong:
        ink = "0;0;0" if LIGHT[value] else "255;255;255"
    return f"\033[38;2;{ink};48;2;{color}m{text}\033[0m"


def terminal_width():
    """Returns columns: COLUMNS, or the terminal's, or 80 where the output is a file."""
    return shutil.get_terminal_size().columns


def compare(grid, target):
    """Returns what to say of a grid, or None, and which cells are wrong (H, W), or None."""
    if target is None:
        return "", None
    if grid is None:
        return "✗ wrong", None
    if grid.shape != target.shape:
        return "✗ wrong size", None
    wrong = grid != target
    if wrong.any():
        return f"✗ wrong in {wrong.sum()} of {wrong.size} cells", wrong
    return "✓ right", wrong


def grid_column(title, grid, target=None, missing="no grid"):
    """Returns the lines of a grid (H, W), or of `missing` for None, under its title.

    Cells are marked where they differ from a target of the same shape. What is wider than the
    terminal goes on below.
    """
    if grid is None:
        return [text.ljust(max(len(title), len(missing))) for text in (title, missing)]
    _, wrong = compare(grid, target)
    if wrong is None:
        wrong = np.zeros(grid.shape, bool)
    most = max(1, terminal_width() // 2)       # cells of a line
    width = max(len(title), 2 * min(most, grid.shape[1]))
    lines = [title.ljust(width)]
    for first in range(0, grid.shape[1], most):
        if first:
            lines.append(f"from column {first}:".ljust(width))
        part = slice(first, first + most)
        for row, marks in zip(grid[:, part], wrong[:, part]):
            margin = " " * (width - 2 * len(row))        # as seen: color codes take no room
            lines.append("".join(map(cell_text, row, marks)) + margin)
    return lines


def side_by_side(*columns):
    """Returns columns as one text: beside each other, or below where the terminal is too narrow.

    A column is a list of lines, all as wide as the first. The last ones stay together longest.
    """
    rows, room = [], 0
    for lines in reversed(columns):
        needed = len(lines[0]) + 3
        if needed > room:
            rows.insert(0, [])
            room = terminal_width() + 3
        rows[0].insert(0, lines)
        room -= needed
    text = []
    for row in rows:
        height = max(map(len, row))
        filled = [lines + [" " * len(lines[0])] * (height - len(lines)) for lines in row]
        text += ["   ".join(parts).rstrip() for parts in zip(*filled)]
    return "\n".join(text)


def picture(task, test, grid, name):
    """Returns a query of a task, its target, and a grid that should be it, or None, as text.

    It says in how many cells the grid differs from the target, and marks them.
    """
    query, target = task.test[test]
    verdict, _ = compare(grid, target)
    columns = [
        grid_column("input", query),
        grid_column("target", target, missing="unknown"),
        grid_column(name, grid, target),
    ]
    title = f"{task.id}: {name} {verdict[2:]}" if verdict else task.id
    return f"\n{title}\n{side_by_side(*columns)}"


def size(grid):
    return "" if grid is None else "{}x{}".format(*grid.shape)


def task_text(task):
    """Returns a task as text: its demonstrations, then its queries."""
    parts = [f"task {task.id}: {len(task.train)} demonstrations, {len(task.test)} queries"]
    for kind, pairs in (("demonstration", task.train), ("query", task.test)):
        for i, (grid, output) in enumerate(pairs):
            left = grid_column(f"{kind} {i}: input {size(grid)}", grid)
            right = grid_column(f"output {size(output)}", output, missing="unknown")
            parts.append(side_by_side(left, right))
    return "\n\n".join(parts)


def find_task(tasks, name, source):
    """Returns the task of this id, or the first whose id starts with it."""
    found = [task for task in tasks if task.id == name]
    found += [task for task in tasks if task.id.startswith(name)]
    if not found:
        near = difflib.get_close_matches(name, [task.id for task in tasks], 3, 0)
        raise UserError(f"{source} has no task {name!r}; near it: {', '.join(near)}")
    return found[0]


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not argv or "--help" in argv:
        print(__doc__ + "\nFamilies of oned: " + " ".join(oned.FAMILIES))
        return
    source, name = [*argv, ""][:2]
    # five of each family, of which one is lifted
    count = 5 * len(oned.FAMILIES)
    tasks = oned.draw_tasks("look", count) if source == "oned" else load_tasks(source)
    task = find_task(tasks, name, source)
    print(task_text(task))
    pairs = task.train + task.test[:1]
    if not pairs:
        return
    tokens = np.concatenate([encode_pair(pair)[0] for pair in pairs])
    print("index  token  pair side    row column")
    for token, (index, number, row, column) in zip(tokens, trace(tokens)):
        side = "output" if number % 2 else "input"
        print(f"{index:5d}  {NAMES[token]:5s}  {number // 2:4d} {side:6s} {row:4d} {column:6d}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        pass
