"""The picture of the README: queries of `test`, and what the network predicts for them.

    python results/picture.py config/quadtree.py [--key=value ...]

Run it after train.py and refine.py with the same arguments. It writes results/predictions.svg.
"""
import sys

from runs import HERE                          # first: it makes the project's modules importable

from arc.oned import family_of
from arc.report import svg
from arc.tasks import load_data, write_text
from config import UserError, load_config
from engine.devices import pick_device
from engine.predict import Predictor, make_queries
from engine.runs import from_checkpoint, load_checkpoint, rebuild
from refine import read_drafts

FAMILIES = ["1d_fill", "1d_mirror", "1d_flip", "1d_recolor_cnt", "2d_hollow", "2d_pcopy_mc"]


def first_of(tasks, family):
    """Returns the first task of a family that does not stand upright, be it solved or not."""
    for task in tasks:
        height, _ = task.train[0][0].shape
        if family_of(task.id) == family and height < 4:
            return task
    raise UserError(f"no task of {family} in `test`")


def main(argv):
    config, _ = load_config(argv)
    device, _ = pick_device(config)
    model, _ = from_checkpoint(f"{config.out_dir}/ckpt.pt", device)
    tasks = load_data(config).test
    chosen = [first_of(tasks, family) for family in FAMILIES]
    predictions, _ = Predictor(model, config, {}, device).predict(chosen, views=1)
    found = load_checkpoint(f"{config.out_dir}/refine/ckpt.pt", "Refiner", "run refine.py first")
    refiner = Predictor(rebuild(found, device), config, {}, device)
    drafts = [prediction.grid for prediction in predictions]
    refined = read_drafts(refiner, make_queries(chosen, 1, config), drafts)
    rows = {}
    for task, prediction, after in zip(chosen, predictions, refined):
        grid, output = task.train[0]
        query, answer = task.test[0]
        rows[task.id] = [
            ("demonstration", grid, None),
            ("its output", output, None),
            ("query", query, None),
            ("target", answer, None),
            ("prediction", prediction.grid, answer),
            ("refined", after and after.grid, answer),
        ]
    write_text(HERE / "predictions.svg", svg(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
