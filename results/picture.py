"""The picture of the README: queries of `test`, and what the network predicts for them.

    python results/picture.py config/quadtree.py [--key=value ...]

Run it after train.py and refine.py with the same arguments. It writes predictions.svg into the
run's folder; --out=results replaces the README's.
"""
from pathlib import Path

import numpy as np
from runs import command_line, read_command    # first: it makes the project's modules importable

from arc.files import write_text
from arc.oned import family_of
from arc.show import LIGHT, PALETTE, compare
from arc.sources import load_data
from config import UserError, load_config
from engine.devices import pick_device
from engine.predict import Predictor, make_queries
from engine.checkpoints import load_checkpoint, rebuild
from refine import read_drafts, with_drafts

FAMILIES = ["1d_fill", "1d_mirror", "1d_flip", "1d_recolor_cnt", "2d_hollow", "2d_pcopy_mc"]


def first_of(tasks, family):
    """Returns the first task of a family that does not stand upright, be it solved or not."""
    for task in tasks:
        height, _ = task.train[0][0].shape
        if family_of(task.id) == family and height < 4:
            return task
    raise UserError(f"no task of {family} in `test`")


def svg(rows, cell=12):
    """Returns rows of grids as one SVG, with cells of `cell` pixels, wrong ones crossed out.

    rows: {name: [(title, grid or None, answer or None)]}.
    """
    body = ""
    top, width = 8, 0
    for name, figures in rows.items():
        body += f'<text x="8" y="{top + 10}" font-weight="700">{name}</text>'
        left, height = 8, 0
        for title, grid, answer in figures:
            verdict, wrong = compare(grid, answer)
            title += ": no grid" if grid is None else f" {verdict}"
            body += f'<text x="{left}" y="{top + 24}">{title}</text>'
            H, W = np.shape(grid) or (0, 0)
            for r, c in np.ndindex(H, W):
                x, y, color = left + c * cell, top + 30 + r * cell, grid[r, c]
                body += (f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" '
                         f'fill="rgb{PALETTE[color]}" stroke="#555"/>')
                if wrong is not None and wrong[r, c]:
                    ink = "black" if LIGHT[color] else "white"
                    body += (f'<path d="M{x + 2} {y + 2}l{cell - 4} {cell - 4}" stroke="{ink}" '
                             'stroke-width="2"/>')
            left += max(W * cell, 6 * len(title)) + 28
            height = max(height, H * cell)
        top += height + 42
        width = max(width, left)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" '
            f'font-family="sans-serif" font-size="11" fill="#777">{body}</svg>\n')


def main(argv):
    names, own, options = read_command(argv, dict(out=""))
    config, _ = load_config([*names, *options])
    device, _ = pick_device(config)
    model = rebuild(load_checkpoint(f"{config.out_dir}/ckpt.pt"), device)
    tasks = load_data(config).test
    chosen = [first_of(tasks, family) for family in FAMILIES]
    predictions = Predictor(model, config, {}, device).predict(chosen, views=1)
    found = load_checkpoint(f"{config.out_dir}/refine/ckpt.pt", "Refiner", "run refine.py first")
    refiner = Predictor(rebuild(found, device), config, {}, device)
    queries = with_drafts(make_queries(chosen, 1, config), predictions)
    refined = {after.task: after.grid for after in read_drafts(refiner, queries)}
    rows = {}
    for task, prediction in zip(chosen, predictions):
        grid, output = task.train[0]
        query, answer = task.test[0]
        rows[task.id] = [
            ("demonstration", grid, None),
            ("its output", output, None),
            ("query", query, None),
            ("target", answer, None),
            ("prediction", prediction.grid, answer),
            ("refined", refined.get(task.id), answer),
        ]
    path = Path(own["out"] or config.out_dir) / "predictions.svg"
    write_text(path, svg(rows))
    print(path)


if __name__ == "__main__":
    command_line(main)
