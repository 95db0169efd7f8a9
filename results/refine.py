"""Does refinement earn its place? refine.py beside more of train.py, on generated tasks.

    python results/refine.py draft more_training --seeds=1,2,3

A name is an arm below. `draft` runs train.py, then refine.py, both with config/quadtree.py. Its
record also holds the scores of answers without a draft (pass2_without_draft). more_training is the
base network's run with its end later, by as many steps as refine.py takes. Other --key=value go to
both scripts. Base networks are trained once, in out/refine_arms/base_SEED; one that was cut off
goes on, and one of older code is trained again.
Writes ARM.json into out/refine_arms; --out=results/refine replaces what is published.

Most tables of results/refine.md are of older designs. The code of commit 6ca3cde has them and
their controls: main, blind, in_sample, synthetic and one_loop.
"""
import json
from pathlib import Path

from runs import (ROOT, as_options, command_line, read_command, read_json, read_numbers,
                  run_script)
from compare import CONFIG, look_into
from config import load_config
from engine.checkpoints import MAY_CHANGE

ARMS = {                                       # name: the knobs of refine.py that differ
    "draft": {},
    "more_training": None,                     # no refine.py: a longer base run
}
RUNS = ROOT / "out" / "refine_arms"            # where the runs leave their files


def run(script, folder, options, **knobs):
    """Runs a script with config/quadtree.py. Returns the records that it leaves."""
    command = [script, CONFIG, f"--out_dir={folder}", *options, *as_options(knobs)]
    return run_script(command, folder / "refine" if script == "refine.py" else folder)


def base_network(seed, options):
    """Returns the checkpoint of a base network, trained where it is not there or not finished."""
    folder = RUNS / f"base_{seed}"
    config = load_config([CONFIG, f"--out_dir={folder}", *options, f"--seed={seed}"])[0]
    options = [option for option in options if not option.startswith("--overwrite")]
    may_change = MAY_CHANGE | {name for name in vars(config) if name.startswith("refine_")}
    records, how = None, "--overwrite"
    if not config.overwrite:
        records, how = look_into(folder, config, may_change)
    if records is None or not (folder / "ckpt.pt").exists():
        run("train.py", folder, [*options, how or "--overwrite"], seed=seed)
    return folder / "ckpt.pt"


def run_arm(arm, seed, options):
    """Returns the test record of one arm."""
    folder = RUNS / f"{arm}_{seed}"
    if ARMS[arm] is None:
        # as long a warm-up as the base run has, so that their first steps are the same
        base = load_config([CONFIG, *options])[0]
        steps = base.max_steps + base.refine_steps
        longer = dict(max_steps=steps, warmup=base.warmup * base.max_steps / steps)
        records = run("train.py", folder, options, seed=seed, overwrite=True, **longer)
    else:
        base = base_network(seed, options)
        records = run("refine.py", folder, options, seed=seed, overwrite=True, refine_from=base,
                      **ARMS[arm])
    return [record for record in records if record["kind"] == "test"][-1]


def main(argv):
    arms, own, options = read_command(argv, dict(seeds="1,2,3", out=str(RUNS)))
    if not arms or not set(arms) <= set(ARMS):
        raise SystemExit(f"{__doc__}\narms: {', '.join(ARMS)}")
    seeds = read_numbers("seeds", own["seeds"], 0)
    out = Path(own["out"])
    out.mkdir(parents=True, exist_ok=True)
    for arm in arms:
        path = out / f"{arm}.json"
        found = read_json(path, {})
        for seed in seeds:
            found[str(seed)] = run_arm(arm, seed, options)
            path.write_text(json.dumps(found, indent=1) + "\n")
            print(arm, seed, json.dumps(found[str(seed)]), flush=True)


if __name__ == "__main__":
    command_line(main)
