"""The leak guard: what may be trained on, given the protected tasks that a run is judged on."""
import hashlib

import numpy as np

from arc.task import known_pairs
from arc.views import IDENTITY, SYMMETRIES, random_colors, transform, view_pairs
from config import UserError

TWINS = {
    "40853293": "070dd51e",                    # ARC-1 training = ARC-1 evaluation, pair for pair
    "caa06a1f": "50a16a69",                    # the same up to symmetry and colors: no pair tells
}
TWINS |= {second: first for first, second in TWINS.items()}


def digest(data):
    return hashlib.blake2b(data, digest_size=8).digest()


def known_grids(grid, output):
    """Returns the grids of a pair: its input alone where the output is None."""
    return [part for part in (grid, output) if part is not None]


def pair_key(grid, output):
    """Returns a hash of a pair, or of its input alone where the output is None."""
    parts = [f"{part.shape}".encode() + part.tobytes() for part in known_grids(grid, output)]
    return digest(b"|".join(parts))


def pair_keys(tasks):
    """Returns the keys of all pairs of tasks, unanswered ones too."""
    return frozenset(pair_key(*pair) for task in tasks for pair in task.train + task.test)


def key_text(pair):
    """Returns a pair's key as text, for checkpoints."""
    return pair_key(*pair).hex()


def form_key(grid, output):
    """Returns a hash of a pair that does not change when the pair is turned, mirrored or recolored.

    It is the least of the pair's eight forms, with colors numbered in order of appearance. Where
    the output is None, the input's alone.
    """
    forms = []
    for symmetry in range(SYMMETRIES):
        turned = [transform(part, symmetry) for part in known_grids(grid, output)]
        cells = np.concatenate([part.ravel() for part in turned])
        _, first, color = np.unique(cells, return_index=True, return_inverse=True)
        numbered = np.argsort(np.argsort(first))[color].astype(np.uint8)
        forms.append("".join(str(part.shape) for part in turned).encode() + numbered.tobytes())
    return digest(min(forms))


def rough_form(grid, output):
    """Returns less than `form_key` tells, sooner: the sides, and how often the colors come."""
    grids = known_grids(grid, output)
    counts = np.bincount(np.concatenate([part.ravel() for part in grids]))
    sides = [side for part in grids for side in sorted(part.shape)]
    return (*sides, *sorted(counts[counts > 0].tolist()))


def of_same_form(pairs, others):
    """Returns the numbers of the pairs that a view can turn into one of the others.

    Where the output of another is None, its input decides.
    """
    rough = {rough_form(*pair) for pair in others}
    forms = {form_key(*pair) for pair in others}

    def found(*pair):
        return rough_form(*pair) in rough and form_key(*pair) in forms
    return [number for number, (grid, output) in enumerate(pairs)
            if found(grid, output) or found(grid, None)]


def is_banned(pair, banned):
    """Returns whether a pair is the same as a banned one. An unanswered one bans its input."""
    return pair_key(*pair) in banned or pair_key(pair[0], None) in banned


def shows(banned, pairs, symmetry, colors):
    """Returns whether a view of the pairs holds one that is banned."""
    return any(is_banned(pair, banned) for pair in view_pairs(pairs, symmetry, colors))


def allowed_colors(rng, fixed, banned, pairs, symmetry):
    """Returns a random color table under which the pairs show no banned one.

    After 8 tries the table that changes nothing.
    """
    for _ in range(8):
        colors = random_colors(rng, fixed)
        if not shows(banned, pairs, symmetry, colors):
            return colors
    return IDENTITY


def task_key(task):
    """Returns a hash of a task's demonstrations. A task is recognised by its id and this."""
    keys = sorted(pair_key(*pair) for pair in task.train)
    return digest(b"".join(keys)).hex()


def guard(train, protected):
    """Returns (training tasks that may be used, the id of each one dropped, number merged).

    A training task is dropped when it shares an id or a pair with a protected task, or is known to
    be its twin. One that shares an id or a pair with an earlier one is merged into it.
    """
    ids = {task.id for task in protected}
    keys = pair_keys(protected)
    kept = {}                                  # id -> task
    home = {}                                  # id, or key of a pair -> id of the task it went to
    dropped, merged = [], 0
    for task in train:
        pairs = {pair_key(*pair): pair for pair in known_pairs(task)}
        if (task.id in ids or TWINS.get(task.id) in ids
                or any(is_banned(pair, keys) for pair in task.train + task.test)):
            dropped.append(task.id)
            continue
        names = [task.id, *pairs]              # what tells that two tasks are one
        twin = next((home[name] for name in names if name in home), task.id)
        home.update(dict.fromkeys(names, twin))
        if twin not in kept:
            kept[twin] = task
        else:
            first = kept[twin]
            have = pair_keys([first])
            new = [pair for key, pair in pairs.items() if key not in have]
            kept[twin] = first._replace(train=first.train + new)
            merged += 1
    # other pairs under an id whose rule is protected
    late = {home[name] for name in dropped if name in home}
    usable = [task for name, task in kept.items() if name not in late]
    return usable, dropped + sorted(late), merged


def held_out(pair, holdout):
    """Returns whether a pair is in part i of k, for holdout = "i/k"; False for an empty holdout.

    It goes by the pair's form, as training shows a pair turned and recolored.
    """
    if not holdout:
        return False
    i, _, k = holdout.partition("/")
    if not (i.isdecimal() and k.isdecimal() and int(i) < int(k)):
        raise UserError(f"holdout = {holdout!r}: expected i/k with i < k, such as 0/2")
    return int.from_bytes(form_key(*pair), "big") % int(k) == int(i)
