r"""Make arc_gen.json, the synthetic pairs of config/arc1_best.py and arc2.py, with ARC-GEN's code.

    git clone https://github.com/google/ARC-GEN
    python results/arc_gen.py ARC-GEN --train=ARC-AGI-2/data/training \
        --exclude=ARC-AGI/data/training+ARC-AGI/data/evaluation+ARC-AGI-2/data/evaluation

ARC-GEN has a generator of pairs for each of 900 tasks, 328 of them ARC-1 *evaluation* tasks. Used
are those of a task of --train that is none of --exclude, by id: 172 tasks, 16 pairs each, as tasks
of demonstrations alone. The generators (Apache-2.0) run as they are, with their own parameters.
Kept are the first pairs that are grids of ARC, change their input, repeat no input of the task and
look like no pair of --exclude, turned or recolored either. Takes about 15 minutes of one core.

--out=arc_gen.json  --pairs=16  --seed=42  --seconds=10, of the processor, for one pair: some
generators draw until a layout fits, and a slower machine gives up at other pairs.
"""
import random
import signal
import sys
from pathlib import Path

import numpy as np

from runs import command_line, read_command, read_numbers
from arc.files import write_json
from arc.leaks import form_key
from arc.sources import check_grid, load_tasks
from config import UserError


class TooSlow(Exception):
    pass


def give_up(*_):
    raise TooSlow


def read_generators(folder):
    """Returns {task id: function that draws a pair} of a clone of ARC-GEN."""
    if not (Path(folder) / "task_list.py").is_file():
        raise UserError(f"{folder}: no clone of ARC-GEN, which has a file task_list.py: "
                        "git clone https://github.com/google/ARC-GEN")
    sys.path.insert(0, folder)
    import task_list
    return {name: generator for name, (generator, _) in task_list.task_list().items()}


def draw_pair(generator, seconds):
    """Returns (input, output) of a generator; None where it fails, is too slow or draws no grids.

    seconds: of the processor, not of the clock. A grid of ARC has sides of at most 30.
    """
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        drawn = generator()
        pair = tuple(check_grid(drawn[name], name) for name in ("input", "output"))
    except Exception:                          # TooSlow, or a generator's own fault
        return None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return pair if max(side for grid in pair for side in grid.shape) <= 30 else None


def draw_pairs(name, generator, count, seed, seconds, excluded):
    """Returns (`count` pairs of a task as JSON has them, how many attempts that took).

    excluded: form_keys of pairs.
    """
    pairs, inputs = [], set()
    for attempt in range(100 * count):
        random.seed(f"{seed}/{name}/{attempt}")
        pair = draw_pair(generator, seconds)
        if pair is None or np.array_equal(*pair):
            continue
        if excluded & {form_key(*pair), form_key(pair[0], None)}:   # without an output its input
            continue
        key = (pair[0].shape, pair[0].tobytes())
        if key not in inputs:
            inputs.add(key)
            pairs.append({"input": pair[0].tolist(), "output": pair[1].tolist()})
        if len(pairs) == count:
            return pairs, attempt + 1
    raise UserError(f"{name}: {100 * count} attempts gave {len(pairs)} pairs: ask for fewer with "
                    "--pairs=")


def main(argv):
    own = dict(train="", exclude="", out="arc_gen.json", pairs="16", seed="42", seconds="10")
    names, own, others = read_command(argv, own)
    if len(names) != 1 or others or not (own["train"] and own["exclude"]):
        sys.exit(__doc__)
    count, seed, seconds = (read_numbers(key, own[key], least)[0]
                            for key, least in (("pairs", 1), ("seed", 0), ("seconds", 1)))
    generators = read_generators(names[0])
    outside = load_tasks(own["exclude"])
    protected = {task.id for task in outside}
    excluded = {form_key(*pair) for task in outside for pair in task.train + task.test}
    wanted = sorted(task.id for task in load_tasks(own["train"])
                    if task.id in generators and task.id not in protected)
    signal.signal(signal.SIGVTALRM, give_up)
    tasks = {}
    for number, name in enumerate(wanted, 1):
        pairs, attempts = draw_pairs(name, generators[name], count, seed, seconds, excluded)
        tasks[name] = {"train": pairs, "test": []}
        print(f"{number}/{len(wanted)} {name}: {count} pairs in {attempts} attempts", flush=True)
    write_json(own["out"], tasks)
    print(f"{own['out']}: {count} pairs of each of {len(tasks)} tasks")


if __name__ == "__main__":
    command_line(main)
