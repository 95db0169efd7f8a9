"""Grids in the terminal, each cell two spaces on its color, as ARC's own viewer paints them.

    python -m arc.show FILE TASK       one task: grids in color, every token with its coordinates
    python -m arc.show oned 1d_flip    the same for a generated task
"""
import difflib
import os
import sys

import numpy as np

from arc import oned
from arc.tasks import load_tasks
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
    if not use_color():
        return f"{value}!" if wrong else f"{value} "
    ink = 30 if LIGHT[value] else 97
    red, green, blue = PALETTE[value]
    return f"\033[{ink};48;2;{red};{green};{blue}m{'><' if wrong else '  '}\033[0m"


def grid_column(title, grid, answer=None):
    """Returns the lines of a grid (H, W), or None, under its title.

    Cells are marked where they differ from an answer of the same shape.
    """
    if grid is None:
        return [title, "no grid"]
    wrong = np.zeros(grid.shape, bool)
    if answer is not None and answer.shape == grid.shape:
        wrong = grid != answer
    width = 2 * grid.shape[1]                  # as seen: color codes take no room
    margin = " " * (len(title) - width)
    rows = ["".join(map(cell_text, *row)) + margin for row in zip(grid, wrong)]
    return [title.ljust(width)] + rows


def side_by_side(*columns):
    """Returns columns as one text. A column is a list of lines, all as wide as the first."""
    height = max(map(len, columns))
    filled = [lines + [" " * len(lines[0])] * (height - len(lines)) for lines in columns]
    return "\n".join("   ".join(parts).rstrip() for parts in zip(*filled))


def picture(task, test, grid, title):
    """Returns a query of a task, its answer if known, and a grid that should be it, as text.

    Cells of the grid that differ from the answer are marked. A grid of None reads "no grid".
    """
    query, answer = task.test[test]
    columns = [grid_column("input", query)]
    if answer is not None:
        columns.append(grid_column("answer", answer))
    columns.append(grid_column(title, grid, answer))
    return f"\n{task.id}\n{side_by_side(*columns)}"


def size(grid):
    return "" if grid is None else "{}x{}".format(*grid.shape)


def task_text(task):
    """Returns a task as text: its demonstrations, then its queries."""
    parts = [f"task {task.id}: {len(task.train)} demonstrations, {len(task.test)} queries"]
    for kind, pairs in (("demonstration", task.train), ("query", task.test)):
        for i, (grid, answer) in enumerate(pairs):
            left = grid_column(f"{kind} {i}: input {size(grid)}", grid)
            right = grid_column(f"output {size(answer)}", answer)
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
    if not argv:
        raise UserError(__doc__)
    source, name = [*argv, ""][:2]
    tasks = oned.draw_tasks("look", 18) if source == "oned" else load_tasks(source)
    task = find_task(tasks, name, source)
    print(task_text(task))
    tokens = np.concatenate([encode_pair(pair)[0] for pair in task.train + task.test[:1]])
    print("index  token  pair side    row column")
    for token, (index, number, row, column) in zip(tokens, trace([tokens])):
        side = "output" if number % 2 else "input"
        print(f"{index:5d}  {NAMES[token]:5s}  {number // 2:4d} {side:6s} {row:4d} {column:6d}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        pass
