"""Views: one of 8 symmetries of the square and a permutation of the colors, for a whole document.

In engine/predict.py a view also chooses its demonstrations, and `Query.view` is its number. In
`view_embed`, `n_views` and `task_view` a view is the symmetry alone: colors have no embedding.

The 8 are a group, and each keeps the two sides of a grid or swaps them. The leak guard, `holdout`,
the canvas and the limits of decoding rely on it. So an augmentation of another kind (padding,
scaling, moving) belongs before `Pairs`, where tasks are loaded.
"""
import numpy as np

from arc.tokens import COLORS, VOCAB

SYMMETRIES = 8
IDENTITY = np.arange(VOCAB)                    # the color table that changes nothing


def transform(grid, symmetry):
    """Returns the grid under symmetry 0 to 7.

    4 to 7 transpose it first; then it makes symmetry % 4 quarter turns, counterclockwise.
    """
    return np.rot90(grid.T if symmetry >= 4 else grid, symmetry)


def untransform(grid, symmetry):
    """The inverse of `transform`."""
    grid = np.rot90(grid, -symmetry)
    return grid.T if symmetry >= 4 else grid


def view_grid(grid, symmetry, colors):
    """Returns a grid as a view shows it. colors (14,): the new token for each token."""
    return None if grid is None else colors[transform(grid, symmetry)].astype(np.uint8)


def unview_grid(grid, symmetry, colors):
    """The inverse of `view_grid`."""
    return untransform(np.argsort(colors)[grid].astype(np.uint8), symmetry)


def view_pairs(pairs, symmetry, colors):
    """Returns (input, output) pairs as a view shows them."""
    return [tuple(view_grid(grid, symmetry, colors) for grid in pair) for pair in pairs]


def fixed_colors(task, with_demos):
    """Returns the set of colors that a permutation leaves alone: 0, the background.

    Without demonstrations in the prompt also those that only outputs show: no prompt could tell
    what they became. Judged from the demonstrations alone.
    """
    fixed = {0}
    if not with_demos:
        in_inputs, in_outputs = set(), set()
        for grid, output in task.train:
            in_inputs.update(np.unique(grid).tolist())
            in_outputs.update(np.unique(output).tolist())
        fixed |= in_outputs - in_inputs
    return fixed


def random_colors(rng, fixed=frozenset({0})):
    """Returns a random permutation of the colors that are not fixed, as a table (14,) over tokens.

    rng: a numpy Generator.
    """
    table = IDENTITY.copy()
    free = [color for color in range(COLORS) if color not in fixed]
    table[free] = rng.permutation(free)
    return table
