"""Make one submission of those of several runs: their attempts vote.

    python results/vote.py SUBMISSION SUBMISSION ... [--out=submission.json]

A first attempt counts twice, a second one once, and a grid that is both three times. Of equals the
one of the earlier file is first. `python -m arc.score` scores what comes out.
"""
import sys

from runs import command_line, read_command
from arc.files import write_json
from arc.score import Prediction, attempts_by_votes, is_empty, read_submission, submission
from arc.task import Task
from config import UserError


def vote_submissions(submissions):
    """Returns a submission in Kaggle's form. submissions: as `read_submission` returns them."""
    predictions = []
    for number, found in enumerate(submissions):
        for name, rows in found.items():
            for i, grids in enumerate(rows):
                if is_empty(grids):
                    continue
                first, second = grids
                votes = [(first, 2 * number), (first, 2 * number), (second, 2 * number + 1)]
                predictions += [Prediction(name, i, order, grid, 0.0) for grid, order in votes]
    tasks = [Task(name, [], rows) for name, rows in submissions[0].items()]
    return submission(tasks, attempts_by_votes(predictions))


def main(argv):
    names, own, others = read_command(argv, dict(out="submission.json"))
    if len(names) < 2 or others:
        sys.exit(__doc__)
    submissions = [read_submission(name) for name in names]
    for name, found in zip(names, submissions):
        sizes = {task: len(rows) for task, rows in found.items()}
        if sizes != {task: len(rows) for task, rows in submissions[0].items()}:
            raise UserError(f"{name} answers other queries than {names[0]}: give submissions for "
                            "the same task file")
    write_json(own["out"], vote_submissions(submissions))
    print(f"{own['out']}: the attempts of {len(names)} submissions, voted")


if __name__ == "__main__":
    command_line(main)
