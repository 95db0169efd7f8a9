"""Does the refinement network earn its place? refine.py beside its controls, on generated tasks.

    python results/refine.py main                     # seeds 1, 2, 3: train.py, then refine.py, each config/quadtree.py
    python results/refine.py blind in_sample synthetic one_loop more_training     # the controls, seed 1 unless --seeds=1,2,3

A name is an arm below; the other --key=value go to both scripts. First models are kept in out/refine_arms/first_SEED and trained once.
`main` also holds "ranking only" (pass1_ranked, pass2_ranked: the drafts untouched, votes weighted by the grid head). more_training is the first
model's run with its end 2,000 steps later, which takes less time than main's refine run. Writes results/refine/ARM.json.
"""
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))
from runs import run_script                                    # noqa: E402

ARMS = {                                                       # name: what refine.py is told
    "main": {},
    "blind": dict(refine_draft=False),                         # the same network, without the draft
    "in_sample": dict(refine_train="seen"),                    # drafts of tasks that the first model was trained on
    "synthetic": dict(refine_corrupt=1.0, refine_right=0.0),   # damaged answers only
    "one_loop": dict(refine_loops=1),
    "more_training": None,                                     # no refiner: a longer first model
}
FIRST = Path("out") / "refine_arms"


def call(script, folder, extra, **knobs):
    """Run a script in a process of its own -> its folder's records."""
    command = [script, "config/quadtree.py", f"--out_dir={folder}", *extra, *(f"--{k}={v}" for k, v in knobs.items())]
    return run_script(command, Path(folder) / ("refine" if script == "refine.py" else ""))


def first_model(seed, extra):
    folder = FIRST / f"first_{seed}"
    if not (folder / "ckpt.pt").exists():
        call("train.py", folder, extra, seed=seed)
    return folder


def run(arm, seed, extra):
    """-> the test record of one arm."""
    if ARMS[arm] is None:                                      # 48 steps of warmup, as the first model's 2,400 have: so these are the same
        records = call("train.py", FIRST / f"more_{seed}", extra, seed=seed, max_steps=4400, warmup=48 / 4400, overwrite=True)
    else:
        records = call("refine.py", FIRST / f"{arm}_{seed}", extra, seed=seed, refine_from=first_model(seed, extra) / "ckpt.pt", overwrite=True, **ARMS[arm])
    return [r for r in records if r["kind"] == "test"][-1]


def main(argv):
    seeds = next((arg[8:].split(",") for arg in argv if arg.startswith("--seeds=")), None)
    arms, extra = [arg for arg in argv if arg in ARMS], [arg for arg in argv if arg.startswith("--") and not arg.startswith("--seeds=")]
    if not arms or len(arms) + len(extra) + bool(seeds) != len(argv):
        raise SystemExit(f"{__doc__}\narms: {', '.join(ARMS)}")
    (HERE / "refine").mkdir(exist_ok=True)
    for arm in arms:
        place = HERE / "refine" / f"{arm}.json"
        found = json.loads(place.read_text()) if place.exists() else {}
        for seed in seeds or (["1", "2", "3"] if arm == "main" else ["1"]):
            found[seed] = run(arm, int(seed), extra)
            place.write_text(json.dumps(found, indent=1) + "\n")
            print(arm, seed, json.dumps(found[seed]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
