"""The two records that are passed everywhere: Task and Query."""
from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """One puzzle. Grids are uint8 (H, W)."""
    id: str
    train: list                                # demonstrations: (input, output)
    test: list                                 # (input, output); output: None where unknown


class Query(NamedTuple):
    """One test input of a task under one view, and perhaps a proposal for its output.

    The truth stands in task.test and nowhere else. A proposal, to be judged or verified, and a
    draft, to be read before the answer, stand here and nowhere else: grids in the task's own
    orientation and colors.
    """
    task: Task
    test: int                                  # number in task.test of the pair that is asked
    view: int                                  # 0 is the task as it is
    symmetry: int                              # of the view, see arc/views.py
    colors: np.ndarray                         # (14,): the new token for each token
    demos: tuple                               # numbers of the demonstrations that are shown
    proposal: object = None
    draft: object = None                       # of refine.py

    @property
    def key(self):
        return self.task.id, self.test

    @property
    def target(self):
        """The true output (H, W), or None where it is not known."""
        return self.task.test[self.test][1]


def known_pairs(task):
    """Returns a task's demonstrations, and its test pairs whose output is known."""
    return task.train + [pair for pair in task.test if pair[1] is not None]


def grids_of(task):
    """Returns all grids of a task."""
    return [grid for pair in task.train + task.test for grid in pair if grid is not None]
