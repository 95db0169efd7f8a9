"""What may happen to a run, made to happen: signals, full disks, damaged files, bad input.

    python -m tests.strain                     # the long form, about 10 minutes on 2 cores
    python -m tests.strain --short             # what .ci/run does, under 2 minutes
    python -m tests.strain --seed=2 kill knobs # two of the trials, with other random numbers
    python -m tests.strain --seed=2 kill:17    # case 17 of a trial again

A trial is a function of a Case that returns (what was tried, what was wrong or "", how many).
A run that a signal or a full disk ended is resumed until it is done. Then its weights, metrics and
submission.json must equal those of a run that nothing disturbed, bit for bit. Bad input must give
one line and exit code 1, and change nothing on disk.

The seed decides what is tried. At which instruction a signal arrives, it cannot decide: a failure
of `kill`, `term` or `interrupt` may take some tries to come again.
"""
import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"            # before torch is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import refine  # noqa: E402
import train  # noqa: E402
from arc.sources import load_tasks  # noqa: E402
from config import Config, UserError  # noqa: E402
from engine.checkpoints import load_checkpoint  # noqa: E402
from engine.runs import command_line  # noqa: E402

SCRIPTS = {"train": train, "refine": refine}
LIMIT = 20                                     # seconds, for bad input
PATIENCE = 120                                 # seconds, for a whole run on a busy machine
NOBODY = 65534                                 # a user that may read little

# ------------------------------------------------------------------------------------------------
# Runs


SMALL = dict(device="cpu", n_layer=1, n_embd=32, n_mlp=32, n_kv_head=1, max_len=320, views=1,
             batch_tokens=640, max_answer=40, max_steps=60, eval_every=20, keep_every=15,
             log_every=5, oned_families="1d_fill", oned_eval=2, oned_max_width=9, dropout=0.1)
# the network that refine.py goes on from must answer some tasks with a wrong grid
BASE = {**SMALL, "max_steps": 250, "eval_every": 250, "keep_every": 0, "log_every": 100}
ARMS = {
    "muon_schedulefree": ("train", SMALL),
    "refine": ("refine", {**BASE, "eval_every": 10, "keep_every": 15, "log_every": 5,
                          "refine_tasks": 30, "refine_steps": 40, "refine_views": 1}),
    "adamw": ("train", {**SMALL, "optimizer": "adamw"}),
    "workers": ("train", {**SMALL, "workers": 2}),
    "task_embed": ("train", {**SMALL, "train": "oned#30", "task_embed": True}),
    "muon": ("train", {**SMALL, "optimizer": "muon"}),
    "schedulefree": ("train", {**SMALL, "optimizer": "schedulefree"}),
}


class Done(NamedTuple):
    """How a process ended."""
    code: object                               # exit code, minus the signal, or None: no end
    out: str
    err: str


def flags(knobs):
    return [f"--{key}={value}" for key, value in knobs.items()]


def call_of(root, arm, folder):
    """Returns (script, its arguments) of an arm's run."""
    script, knobs = ARMS[arm]
    more = {"refine_from": root / "base" / "ckpt.pt"} if script == "refine" else {}
    return script, flags({**knobs, **more, "out_dir": folder})


def out_of(arm, folder):
    """Returns where an arm's run leaves its files."""
    return folder / "refine" if ARMS[arm][0] == "refine" else folder


def start(script, args, folder, **more):
    """Starts a script in a process and a session of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
        return subprocess.Popen([sys.executable, f"{script}.py", *args], cwd=ROOT, stdout=out,
                                stderr=err, start_new_session=True, **more)


def end_of(process, folder):
    """Waits for a started process and ends what it left running. Returns Done."""
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        code = None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return Done(code, (folder / "out").read_text("utf-8", "replace"),
                (folder / "err").read_text("utf-8", "replace"))


def call(script, args, folder, seconds=PATIENCE, user=None):
    """Runs a script in a fork of this process, which spares the import of torch. Returns Done.

    What a test replaced in this process is replaced there, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "out", folder / "err"
    for path in paths:
        path.write_bytes(b"")
    pid = os.fork()
    if not pid:
        code = 70                              # the harness itself failed
        try:
            os.setsid()
            for number, path in enumerate(paths, 1):
                os.dup2(os.open(path, os.O_WRONLY), number)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w")
            os.chdir(ROOT)
            if user is not None:
                os.setuid(user)
            room = 12 * 2**30                  # of addresses: no case may take the whole machine
            resource.setrlimit(resource.RLIMIT_AS, (room, room))
            torch.set_num_threads(1)
            code = run_script(script, args)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return wait_for(pid, seconds, paths)


def run_script(script, args):
    """Returns the exit code of a script with these arguments."""
    sys.argv = [f"{script}.py", *map(str, args)]
    try:
        command_line(SCRIPTS[script].main, "predicts")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def wait_for(pid, seconds, paths):
    end, status = time.time() + seconds, None
    while time.time() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            break
        time.sleep(0.005)
    else:
        status = None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if status is None:
        os.waitpid(pid, 0)
    code = None if status is None else os.waitstatus_to_exitcode(status)
    return Done(code, *(path.read_text("utf-8", "replace") for path in paths))


# ------------------------------------------------------------------------------------------------
# What is wrong: functions that return "" where nothing is


class Case(NamedTuple):
    """One case of a trial; its random numbers follow from the seed."""
    trial: str
    number: int
    count: int                                 # cases of the trial
    seed: int
    root: Path                                 # of all trials; holds reference/ARM

    @property
    def folder(self):
        return self.root / f"{self.trial}_{self.number}"

    def rng(self):
        return np.random.default_rng([self.seed, zlib.crc32(self.trial.encode()), self.number])

    def pick(self, choices):
        """Returns one of some choices; the cases of a trial go through them evenly."""
        choices = list(choices)
        if self.count < len(choices):
            return choices[self.number * len(choices) // self.count]
        return choices[self.number % len(choices)]


def first(*faults):
    return next(filter(None, faults), "")


def short(text, most=300):
    text = " | ".join(text.strip().splitlines()[-6:])
    return text if len(text) <= most else f"...{text[-most:]}"


def not_one_line(done, *words):
    """Returns what is wrong with how a refused call ended."""
    lines = done.err.splitlines()
    if done.code is None:
        return f"no end within {LIMIT} s"
    if done.code != 1:
        return f"exit code {done.code}, not 1: {short(done.err)}"
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return f"not one line: {short(done.err)}"
    if not lines[0].isprintable():
        return f"a line that does something to a terminal: {ascii(short(done.err))}"
    lacking = [word for word in words if word not in lines[0]]
    return f"{lacking} is not in: {lines[0]}" if lacking else ""


def contents(folder):
    """Returns {path: hash} of all below a folder; None for what is no file that can be read."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        found[str(path)] = None
        if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def changed(before, folder):
    """Returns what was changed below a folder."""
    after = contents(folder)
    names = {name for name in before.keys() | after.keys()
             if before.get(name, 0) != after.get(name, 0)}
    return f"changed on disk: {', '.join(sorted(Path(name).name for name in names))}" * bool(names)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


# of a call or of the clock; `best` is saved before or after a step is judged
OF_A_CALL = {"config", "versions", "seconds", "best"}


def parts_of(path):
    found = torch.load(path, weights_only=True)
    return {key: value for key, value in found.items() if key not in OF_A_CALL}


def records_of(folder):
    """Returns {kind: {step: record without times}}. The last of a step counts."""
    found = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for key in ("seconds", "ms", "times_scored"):
            record.pop(key, None)
        found.setdefault(record["kind"], {})[record["step"]] = record
    return found


def differences(whole, parts):
    """Returns how the files of a run differ from those of the undisturbed one."""
    names = sorted(path.name for path in whole.glob("*.pt"))
    found = sorted(path.name for path in parts.glob("*.pt"))
    if names != found:
        return f"there is {found}, not {names}"
    for name in names:
        a, b = parts_of(whole / name), parts_of(parts / name)
        for key in sorted(a.keys() | b.keys()):
            if not equal(a.get(key), b.get(key)):
                return f"{name}: another {key}"
    a, b = records_of(whole), records_of(parts)
    # a run that was interrupted reports the step at which that happened, too
    b["train"] = {step: b["train"].get(step) for step in a["train"]}
    for kind in a:
        if a[kind] != b.get(kind):
            return f"metrics.jsonl: other records of kind {kind}: {b.get(kind)}, not {a[kind]}"
    lines = (parts / "metrics.jsonl").read_text().splitlines()
    judged = [record["step"] for record in map(json.loads, lines) if record["kind"] == "val"]
    if len(judged) != len(a["val"]):
        return f"metrics.jsonl: val at steps {judged}"
    if (whole / "submission.json").read_bytes() != (parts / "submission.json").read_bytes():
        return "another submission.json"
    json.loads((parts / "config.json").read_text())
    if "</html>" not in (parts / "report.html").read_text():
        return "half a report.html"
    left = [path.name for path in parts.glob("*.tmp")]
    return f"{left} is left" if left else ""


def finish(case, arm, folder):
    """Resumes a run that was ended until it is done, or starts it again where nothing was saved.

    Returns what is wrong then.
    """
    script, args = call_of(case.root, arm, folder)
    out, talk = out_of(arm, folder), case.folder / "talk"
    if not (out / "ckpt.pt").exists():
        before = contents(folder)
        done = call(script, [*args, "--resume"], talk)
        fault = first(not_one_line(done, "ckpt.pt"), changed(before, folder))
        if fault:
            return f"--resume without a checkpoint: {fault}"
        done = call(script, args, talk)
    else:
        done = call(script, [*args, "--resume"], talk)
    if done.code != 0 or done.err:
        return f"going on ended with {done.code}: {short(done.err)}"
    return differences(out_of(arm, case.root / "reference" / arm), out)


# ------------------------------------------------------------------------------------------------
# Signals


def make_reference(root, arm):
    """Runs an arm undisturbed. Leaves its files and its life in root/reference.

    Its life: all seconds, those after the first line of its log, the records of its metrics.
    """
    folder = root / "reference" / arm
    script, args = call_of(root, arm, folder)
    begun = time.time()
    process = start(script, args, folder)
    wait_for_log(process, out_of(arm, folder))
    imported = time.time()
    done = end_of(process, folder)
    if done.code != 0 or done.err:
        sys.exit(f"the undisturbed run of {arm} failed: {short(done.err)}")
    records = count_records(out_of(arm, folder))
    life = time.time() - begun, time.time() - imported, records
    (folder / "life").write_text(json.dumps(life))
    return arm


def wait_for_log(process, out):
    while process.poll() is None and not (out / "log.txt").exists():
        time.sleep(0.001)


def count_records(out):
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_moment(case, process, out, life):
    """Waits for a random moment of a run's life. Returns its name.

    Of three cases one is anywhere, imports included, one after a random record of the training, and
    one while the next file after it is written.
    """
    (whole, trained, records), rng, kind = life, case.rng(), case.number % 3
    if kind == 0:
        seconds = 0.15 + rng.random() * whole  # Python itself must have started
        time.sleep(seconds)
        return f"after {seconds:.2f} s of {whole:.1f}"
    wait_for_log(process, out)
    after, name = int(rng.integers(records)), ""
    if kind == 2 and rng.random() < 0.4:       # the last chance to write the best weights
        after, name = records - 3, "best.pt"
    while process.poll() is None and count_records(out) < after:
        time.sleep(0.0005)
    if kind == 1:
        seconds = rng.random() * 2 * trained / records
        time.sleep(seconds)
        return f"{seconds:.2f} s after record {after}"
    pause = rng.random() / 500 if rng.random() < 0.5 else 0
    while process.poll() is None:
        names = [entry.name for entry in os.scandir(out) if entry.name.endswith(".tmp")]
        if any(name in found for found in names):
            time.sleep(pause)
            return f"as {names[0]} was written"
    return "after its end"


def signal_trial(number):
    def trial(case):
        """A signal at a random moment; then the run goes on and must end as if there was none."""
        arm, folder = case.pick(ARMS), case.folder / "run"
        rng = np.random.default_rng([case.seed, number, case.number])
        life = json.loads((case.root / "reference" / arm / "life").read_text())
        script, args = call_of(case.root, arm, folder)
        talk = case.folder / "first"
        process = start(script, args, talk)
        moment = wait_for_moment(case, process, out_of(arm, folder), life)
        # a terminal, and SLURM, signal the processes that prepare batches, too
        to_all = number == signal.SIGINT or rng.random() < 0.5
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if to_all else os.kill)(process.pid, number)
            if number == signal.SIGINT and rng.random() < 0.25:
                moment += ", twice"
                time.sleep(rng.random() / 5)
                os.killpg(process.pid, number)
        done = end_of(process, talk)
        what = f"{arm}, {moment}{', all its processes' * to_all}, ended with {done.code}"
        fault = ""
        if done.code not in (0, -number, 128 + number):
            fault = f"exit code {done.code}: {short(done.err)}"
        elif "Traceback" in done.err or len(done.err.splitlines()) > 1:
            fault = f"more than a line: {short(done.err, 600)}"
        return what, first(fault, finish(case, arm, folder)), 1
    return trial


# ------------------------------------------------------------------------------------------------
# Full disks


@contextlib.contextmanager
def small_disk(place, size):
    """Makes `place` a disk of so many bytes. Yields a function that makes room.

    Yields None where this user may not mount one.
    """
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o"]
    done = subprocess.run([*mount, f"size={size}", "strain", place], capture_output=True)
    if done.returncode:
        yield None
        return
    try:
        yield lambda: subprocess.run([*mount, f"remount,size={size + 2**26}", "strain", place],
                                     check=True)
    finally:
        subprocess.run(["umount", place], check=True)


def disk_trial(case):
    """A disk from which room for nothing to room for all but the last file is free."""
    arm = case.pick(["muon_schedulefree", "task_embed", "refine", "adamw"])
    whole = out_of(arm, case.root / "reference" / arm)
    files = [path for path in whole.iterdir() if path.name not in ("out", "err", "life")]
    pages = [-(-path.stat().st_size // 4096) * 4096 for path in files]
    share = (case.number + case.rng().random()) / case.count
    with small_disk(case.folder / "disk", max(4096, int(share * sum(pages)))) as make_room:
        folder, more = case.folder / "disk" / "run", {}
        what = f"{arm}, a disk of {share:.0%} of what it writes"
        if make_room is None:
            # no file may be longer than this: what is written beyond it fails as on a full disk
            most = max(4096, int(share * max(pages)))
            what = f"{arm}, no file longer than {most} bytes (no right to mount)"
            more["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        script, args = call_of(case.root, arm, folder)
        talk = case.folder / "first"
        fault = not_one_line(end_of(start(script, args, talk, **more), talk), "MiB", str(folder))
        left = [path.name for path in folder.rglob("*.tmp")]
        if left and not fault:
            fault = f"{left} is left"
        for path in folder.rglob("*.pt"):
            load_checkpoint(path, "Refiner" if script == "refine" else "GPT")
        if make_room:
            make_room()
        return what, first(fault, finish(case, arm, folder)), 1


# ------------------------------------------------------------------------------------------------
# Two runs in one folder

# name: (arm, what the second call adds or None for a call that may run beside the first)
SECOND = {
    "--resume": ("muon_schedulefree", ["--resume"]),
    "--overwrite": ("workers", ["--overwrite"]),
    "--eval_only": ("muon_schedulefree", ["--eval_only"]),
    "refine.py --resume": ("refine", ["--resume"]),
    "refine.py --overwrite": ("refine", ["--overwrite"]),
    "at once": ("muon_schedulefree", None),
    "--eval_only --tasks": ("muon_schedulefree", None),
}


def two_trial(case):
    """A second run in a folder is refused by the process's number, and the lock dies with it."""
    name = case.pick(SECOND)
    arm, more = SECOND[name]
    folder = case.folder / "run"
    out, (script, args) = out_of(arm, folder), call_of(case.root, arm, folder)
    if name == "at once":
        return name, at_once(case, script, args, folder), 1
    process = start(script, args, case.folder / "first")
    end = time.time() + PATIENCE
    while not (out / "ckpt.pt").exists() and process.poll() is None and time.time() < end:
        time.sleep(0.001)
    # it holds the folder while it does not run
    os.kill(process.pid, signal.SIGSTOP)
    if process.poll() is not None:
        return name, "the first run was too fast", 1
    before = contents(folder)
    if more:
        done = call(script, [*args, *more], case.folder / "talk", LIMIT)
        fault = first(not_one_line(done, f"process {process.pid}"), changed(before, folder))
        os.killpg(process.pid, signal.SIGKILL)
        end_of(process, case.folder / "first")
        return name, first(fault, finish(case, arm, folder)), 1
    tasks = write_tasks(case.folder / "mine.json", good_tasks(case.rng()))
    done = call(script, [*flags(dict(out_dir=folder, tasks=tasks, device="cpu")), "--eval_only"],
                case.folder / "talk")
    fault = "" if done.code == 0 else f"exit code {done.code}: {short(done.err)}"
    os.kill(process.pid, signal.SIGCONT)
    end_of(process, case.folder / "first")
    if not (folder / "mine" / "submission.json").is_file():
        fault = fault or "no mine/submission.json"
    return name, first(fault, differences(case.root / "reference" / arm, out)), 1


def at_once(case, script, args, folder):
    """Two runs that start together: one is done, the other refused."""
    talks = [case.folder / "first", case.folder / "second"]
    processes = [start(script, args, talk) for talk in talks]
    ends = sorted(map(end_of, processes, talks), key=lambda done: done.code or 0)
    if ends[0].code != 0:
        return f"none was done: {short(ends[0].err)}; {short(ends[1].err)}"
    return first(not_one_line(ends[1], "out_dir"),
                 differences(case.root / "reference" / "muon_schedulefree", folder))


# ------------------------------------------------------------------------------------------------
# Damaged checkpoints

LOADS = {
    "--eval_only": lambda path: ["--eval_only", f"--init_from={path}"],
    "--init_from": lambda path: [f"--init_from={path}"],
    "--resume": lambda path: ["--resume"],
}


def refused_loads(case, damage, ways=tuple(LOADS), arm="muon_schedulefree"):
    """Returns what is wrong with how a run's damaged checkpoint is refused.

    damage(path) damages it.
    """
    folder = case.folder / "run"
    shutil.copytree(case.root / "reference" / arm, folder)
    path = out_of(arm, folder) / "ckpt.pt"
    damage(path)
    for way in ways:
        # --init_from starts in a folder of its own
        script, args = call_of(case.root, arm, folder / "new" if way == "--init_from" else folder)
        before = contents(folder)
        done = call(script, [*args, *LOADS[way](path)], case.folder / "talk", LIMIT)
        fault = first(not_one_line(done, str(path)), changed(before, folder))
        if fault:
            return f"{way}: {fault}"
    return ""


def cut_trial(case):
    """A checkpoint that was cut short."""
    share = (case.number + case.rng().random()) / case.count
    kept = []

    def damage(path):
        data = path.read_bytes()
        kept.append(int(share * len(data)))
        path.write_bytes(data[:kept[0]])
    fault = refused_loads(case, damage)
    return f"{kept[0]} bytes of a checkpoint", fault, 1


def bit_trial(case):
    """A flipped bit. It is refused, or it was in filler and what is loaded is the same."""
    arm = case.pick(["muon_schedulefree", "task_embed", "adamw"])
    where = []

    def damage(path):
        data = bytearray(path.read_bytes())
        where.append(int(case.rng().integers(8 * len(data))))
        data[where[0] // 8] ^= 1 << where[0] % 8
        path.write_bytes(data)
    copy = case.folder / "copy.pt"
    shutil.copy(case.root / "reference" / arm / "ckpt.pt", copy)
    whole = parts_of(copy)
    damage(copy)
    what = f"{arm}, bit {where[0]}"
    try:
        load_checkpoint(copy)
        same = equal(whole, parts_of(copy))
        return what + ", in filler", "" if same else "loaded, and it is not the same", 1
    except UserError:
        where.clear()
        return what, refused_loads(case, damage, arm=arm), 1


def with_content(edit):
    """Returns damage(path) that edits the dict of a checkpoint."""
    def damage(path):
        found = torch.load(path, weights_only=True)
        new = edit(found)
        torch.save(found if new is None else new, path)
    return damage


def put(*keys, value):
    """Returns an edit that sets found[key][key].. to a value, or to what a function makes of it."""
    def edit(found):
        *path, last = keys
        for key in path:
            found = found[key]
        found[last] = value(found[last]) if callable(value) else value
    return edit


def less(*keys):
    """Returns an edit that deletes found[key][key].."""
    def edit(found):
        *path, last = keys
        for key in path:
            found = found[key]
        del found[last]
    return edit


def nan(tensor):
    return torch.full_like(tensor, float("nan"))


RESUME = ("--resume",)
KEYS = ("kind", "network", "config", "model_config", "task_ids", "step", "best", "seconds",
        "data", "model")
# what: (edit, ways of loading that must refuse it, arm)
CONTENT = {
    "a list": (lambda found: [1, 2, 3], tuple(LOADS)),
    "a number": (lambda found: 3, tuple(LOADS)),
    "a tensor": (lambda found: torch.zeros(3), tuple(LOADS)),
    "an empty dict": (lambda found: {}, tuple(LOADS)),
    **{f"no {key}": (less(key), tuple(LOADS)) for key in KEYS},
    **{f"{key} is None": (put(key, value=None), tuple(LOADS)) for key in KEYS if key != "best"},
    **{f"{key} is a list": (put(key, value=[1, 2]), tuple(LOADS)) for key in KEYS if key != "best"},
    "no training": (less("training"), RESUME),
    "training is a list": (put("training", value=[]), RESUME),
    "training lacks a tensor": (less("training", "head.weight"), RESUME),
    "training of another shape": (put("training", "head.weight", value=torch.zeros(3, 3)), RESUME),
    "model lacks a tensor": (less("model", "head.weight"), tuple(LOADS)),
    "model of another shape": (put("model", "head.weight", value=torch.zeros(3)), tuple(LOADS)),
    "model of whole numbers": (put("model", "head.weight", value=lambda w: w.long()),
                               tuple(LOADS)),
    "model of another number type": (put("model", "head.weight", value=lambda w: w.double()),
                                     tuple(LOADS)),
    "model of NaN": (put("model", "head.weight", value=nan), tuple(LOADS)),
    "model of text": (put("model", "head.weight", value="weights"), tuple(LOADS)),
    "model has more": (put("model", value=lambda m: {**m, "more": torch.ones(1)}), tuple(LOADS)),
    "no optimizer": (less("optimizer"), RESUME),
    "optimizer empty": (put("optimizer", value=[]), RESUME),
    "optimizer short": (put("optimizer", value=lambda parts: parts[:-1]), RESUME),
    "optimizer twice": (put("optimizer", value=lambda parts: parts + parts), RESUME),
    "optimizer a number": (put("optimizer", value=3), RESUME),
    "optimizer of numbers": (put("optimizer", value=[1, 2]), RESUME),
    "optimizer without groups": (less("optimizer", 0, "param_groups"), RESUME),
    "optimizer with empty groups": (put("optimizer", 0, "param_groups", value=[]), RESUME),
    "step negative": (put("step", value=-1), tuple(LOADS)),
    "step a text": (put("step", value="60"), tuple(LOADS)),
    "step a fraction": (put("step", value=0.5), tuple(LOADS)),
    "step beyond the end": (put("step", value=10**6), RESUME),
    "best of texts": (put("best", value=("a", "b")), tuple(LOADS)),
    "task_ids of numbers": (put("task_ids", value=[1, 2]), tuple(LOADS)),
    "task_ids too many": (put("task_ids", value=[("a", "b")]), tuple(LOADS)),
    "task_ids too few": (put("task_ids", value=lambda ids: ids[1:]), tuple(LOADS), "task_embed"),
    "task_ids twice the same": (put("task_ids", value=lambda ids: [ids[0], *ids[:-1]]), RESUME,
                                "task_embed"),
    "task_ids of lists": (put("task_ids", value=lambda ids: [[[], []] for _ in ids]),
                          tuple(LOADS), "task_embed"),
    "task_ids in another order": (put("task_ids", value=lambda ids: ids[::-1]), RESUME,
                                  "task_embed"),
    "config: a knob a text": (put("config", "n_layer", value="1"), tuple(LOADS)),
    "config: a knob out of range": (put("config", "rerank_views", value=-3), tuple(LOADS)),
    "model_config: no such encoding": (put("model_config", "encoding", value="nothing"),
                                       tuple(LOADS)),
    "model_config: an unknown size": (put("model_config", value=lambda c: {**c, "more": 1}),
                                      tuple(LOADS)),
    "model_config: no sizes": (put("model_config", value={}), tuple(LOADS)),
    "model_config: a huge size": (put("model_config", "n_embd", value=10**7), tuple(LOADS)),
    "model_config: canvas a text": (put("model_config", "canvas", value="16"), tuple(LOADS)),
    "model_config: another dropout": (put("model_config", "dropout", value="x"), tuple(LOADS)),
    "refiner: no drafts": (less("drafts"), RESUME, "refine"),
    "refiner: drafts a number": (put("drafts", value=3), RESUME, "refine"),
    "refiner: drafts of numbers": (put("drafts", value=[1, 2]), RESUME, "refine"),
    "refiner: drafts of no task": (put("drafts", value=[(10**6, 0, [[1]])]), RESUME, "refine"),
    "refiner: drafts of no color": (put("drafts", value=[(0, 0, [[77]])]), RESUME, "refine"),
    "refiner: ragged drafts": (put("drafts", value=[(0, 0, [[1, 2], [3]])]), RESUME, "refine"),
    "refiner: no drafts at all": (put("drafts", value=[]), RESUME, "refine"),
    "refiner: no base": (less("base"), RESUME, "refine"),
    "refiner: another base": (put("base", value="0" * 64), RESUME, "refine"),
    "refiner: step before the base's": (put("step", value=3), RESUME, "refine"),
}


def content_trial(case):
    """A checkpoint that holds something else than Run.save writes."""
    name = case.pick(CONTENT)
    edit, ways, *arm = CONTENT[name]
    return name, refused_loads(case, with_content(edit), ways, *arm), 1


# ------------------------------------------------------------------------------------------------
# Bad task files


def good_tasks(rng, count=2):
    """Returns {id: task}: rows of cells, mirrored."""
    tasks = {}
    for i in range(count):
        pairs = []
        for _ in range(4):
            row = rng.integers(0, 10, rng.integers(2, 8)).tolist()
            pairs.append({"input": [row], "output": [row[::-1]]})
        tasks[f"mine{i}"] = {"train": pairs[:3], "test": pairs[3:]}
    return tasks


def write_tasks(path, tasks):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tasks))
    return path


def with_cell(value):
    """Returns bad(rng, tasks) that puts a value into a random cell."""
    def bad(rng, tasks):
        pair = random_pair(rng, tasks)
        row = pair[str(rng.choice(["input", "output"]))][0]
        row[int(rng.integers(len(row)))] = value
    return bad


def random_task(rng, tasks):
    return tasks[str(rng.choice(sorted(tasks)))]


def random_pair(rng, tasks):
    pairs = random_task(rng, tasks)[str(rng.choice(["train", "test"]))]
    return pairs[int(rng.integers(len(pairs)))]


def with_grid(value):
    def bad(rng, tasks):
        random_pair(rng, tasks)["input"] = value
    return bad


def with_task(value):
    def bad(rng, tasks):
        tasks[f"bad{rng.integers(100)}"] = value
    return bad


def with_id(name):
    def bad(rng, tasks):
        tasks[name] = tasks.pop("mine0")
    return bad


def drop(*keys):
    """Returns bad(rng, tasks) that drops a part of a task, or of a demonstration."""
    def bad(rng, tasks):
        found = random_task(rng, tasks)
        for key in keys[:-1]:
            found = found[key]
        found.pop(keys[-1])
    return bad


def text_of(change):
    """Returns bad(rng, tasks) that makes text or bytes of the text of good tasks."""
    def bad(rng, tasks):
        return change(rng, json.dumps(tasks))
    return bad


def at_random(rng, text, piece):
    place = int(rng.integers(1, len(text) - 1))
    return text[:place] + piece + text[place:]


def special(make):
    """Returns bad(rng, tasks) that makes something of the path itself."""
    def bad(rng, tasks):
        return lambda path: make(path, json.dumps(tasks))
    return bad


def link_to_itself(path, text):
    path.symlink_to(path.name)


def link_to_nothing(path, text):
    path.symlink_to("nothing.json")


def empty_folder(path, text):
    path.mkdir()


def folder_of_other_files(path, text):
    path.mkdir()
    (path / "notes.txt").write_text(text)


def folder_that_links_to_itself(path, text):
    path.mkdir()
    (path / "a.json").symlink_to("a.json")


def folder_with_a_bad_file(path, text):
    path.mkdir()
    (path / "a.json").write_text(text)
    (path / "b.json").write_text(text[:-9])


def two_challenges(path, text):
    path.mkdir()
    (path / "a_challenges.json").write_text(text)
    (path / "b_challenges.json").write_text(text)


def unreadable_file(path, text):
    path.write_text(text)
    path.chmod(0)


def unreadable_folder(path, text):
    path.mkdir()
    path.chmod(0)


def pipe(path, text):
    os.mkfifo(path)


def nested(depth):
    return "[" * depth + "]" * depth


# what: bad(rng, tasks) that edits tasks, returns text or bytes in their place, or f(path)
BAD_FILES = {
    "truncated": text_of(lambda rng, text: text[:int(rng.integers(1, len(text) - 1))]),
    "cut in front": text_of(lambda rng, text: text[int(rng.integers(1, len(text) - 1)):]),
    "empty": text_of(lambda rng, text: ""),
    "blanks": text_of(lambda rng, text: " \n\t"),
    "null bytes": text_of(lambda rng, text: at_random(rng, text, "\0")),
    "only null bytes": text_of(lambda rng, text: "\0" * 100),
    "random bytes": text_of(lambda rng, text: rng.bytes(300)),
    "a picture": text_of(lambda rng, text: b"\x89PNG\r\n\x1a\n" + rng.bytes(99)),
    "UTF-16": text_of(lambda rng, text: text.encode("utf-16")),
    "UTF-32": text_of(lambda rng, text: text.encode("utf-32")),
    "Latin-1": text_of(lambda rng, text: text.replace("mine", "m\u00efne").encode("latin-1")),
    "half a gzip": text_of(lambda rng, text: zlib.compress(text.encode(), wbits=31)[:-30]),
    "gzip of no JSON": text_of(lambda rng, text: zlib.compress(b"tasks", wbits=31)),
    "gzip magic alone": text_of(lambda rng, text: b"\x1f\x8b"),
    "twice": text_of(lambda rng, text: text + text),
    "single quotes": text_of(lambda rng, text: text.replace('"', "'")),
    "a comma too much": text_of(lambda rng, text: text.replace("]]", "],]", 1)),
    "NaN": text_of(lambda rng, text: "NaN"),
    "nesting 100,000 deep": text_of(lambda rng, text: nested(100000)),
    "a grid 100,000 deep": text_of(
        lambda rng, text: text.replace("[[", f"[{nested(100000)}, [", 1)),
    "nesting of objects": text_of(lambda rng, text: '{"a":' * 50000 + "1" + "}" * 50000),
    "a number of 10,000 digits": text_of(lambda rng, text: text.replace("[[", "[[" + "9" * 10000
                                                                       + ", ", 1)),
    "duplicate ids": text_of(lambda rng, text: text.replace("mine1", "mine0")),
    "duplicate keys": text_of(lambda rng, text: text.replace('"train"', '"test"')),
    "a huge cell": with_cell(10**300),
    "cell 10": with_cell(10),
    "cell -1": with_cell(-1),
    "cell 0.5": with_cell(0.5),
    "cell 1.0": with_cell(1.0),
    "cell 1e999": with_cell(float("inf")),
    "cell NaN": with_cell(float("nan")),
    "cell True": with_cell(True),
    "cell null": with_cell(None),
    "a cell of text": with_cell("1"),
    "a cell with an escape": with_cell("\x1b[31mred\n"),
    "a cell of a list": with_cell([1]),
    "a cell of an object": with_cell({"a": 1}),
    "ragged": with_grid([[1, 2], [3]]),
    "no rows": with_grid([]),
    "empty rows": with_grid([[], []]),
    "a flat grid": with_grid([1, 2, 3]),
    "a grid of text": with_grid("123"),
    "rows of text": with_grid(["123", "456"]),
    "no grid": with_grid(None),
    "a grid of an object": with_grid({"0": [1]}),
    "a task of null": with_task(None),
    "a task of a number": with_task(7),
    "a task of text": with_task("train"),
    "an empty task": with_task({}),
    "train an object": with_task({"train": {}, "test": []}),
    "pairs of numbers": with_task({"train": [1, 2], "test": [3]}),
    "pairs of lists": with_task({"train": [[[[1]], [[1]]]], "test": []}),
    "no demonstrations": with_task({"train": [], "test": [{"input": [[1]]}]}),
    "wrong keys": text_of(lambda rng, text: text.replace("input", "in").replace("output", "out")),
    "keys in capitals": text_of(lambda rng, text: text.replace("train", "Train")),
    "no train": drop("train"),
    "no test": drop("test"),
    "no input": drop("train", 0, "input"),
    "no output": drop("train", 0, "output"),
    "an id with an escape": with_id("\x1b]0;title\x07"),
    "an id with a line break": with_id("mine\nerror: none"),
    "an id that turns text round": with_id("mine\u202etxt"),
    "an id with a null byte": with_id("mine\0"),
    "an id of half a character": with_id("mine\ud800"),
    "a number for tasks": text_of(lambda rng, text: "3"),
    "text for tasks": text_of(lambda rng, text: '"tasks"'),
    "null for tasks": text_of(lambda rng, text: "null"),
    "an empty list": text_of(lambda rng, text: "[]"),
    "an empty object": text_of(lambda rng, text: "{}"),
    "a list of numbers": text_of(lambda rng, text: "[1, 2]"),
    "a link to itself": special(link_to_itself),
    "a link to nothing": special(link_to_nothing),
    "an empty folder": special(empty_folder),
    "a folder of other files": special(folder_of_other_files),
    "a folder that links to itself": special(folder_that_links_to_itself),
    "a folder with a bad file": special(folder_with_a_bad_file),
    "a folder of two challenges": special(two_challenges),
    "a file without permission": special(unreadable_file),
    "a folder without permission": special(unreadable_folder),
    "a pipe": special(pipe),
}


def task_trial(case):
    """A bad task file, to train on, to judge on, or to solve."""
    name, rng = case.pick(BAD_FILES), case.rng()
    tasks = good_tasks(rng)
    # it may follow a good one, too
    path = case.folder / "in" / str(rng.choice(["tasks.json", "my tasks+more.json"]))
    path.parent.mkdir(parents=True)
    made = BAD_FILES[name](rng, tasks)
    if callable(made):
        made(path)
    else:
        made = made if made is not None else json.dumps(tasks)
        path.write_bytes(made if isinstance(made, bytes) else made.encode("utf-8", "replace"))
    way = str(rng.choice(["--train", "--val", "--test", "--tasks"]))
    args = [*flags({**SMALL, "out_dir": case.folder / "out"}), f"{way}={path}"]
    if way == "--tasks":
        args += ["--eval_only", f"--init_from={case.root}/reference/muon_schedulefree/ckpt.pt"]
    user = None
    if "permission" in name and os.getuid() == 0:
        user = NOBODY                          # root may read all
        for folder in (case.root, case.folder):
            folder.chmod(0o755)
        case.folder.chmod(0o777)
    before = contents(case.folder)
    done = call("train", args, case.root / f"talk_{case.trial}_{case.number}", LIMIT, user)
    fault = first(not_one_line(done), changed(before, case.folder))
    if "permission" in name:
        path.chmod(0o700)                      # so that it can be removed
    if not fault and not any(name in done.err for name in (path.name, "task mine", "task bad")):
        fault = f"neither file nor task is named: {short(done.err)}"
    return f"{name}, {way}", fault, 1


# ------------------------------------------------------------------------------------------------
# Bad knobs

# command lines that are wrong for a reason of their own
WRONG = [
    ["--demos=1000000000"], ["--n_embd=200000"], ["--learning_rate=1e99"], ["--views=1000000"],
    ["--oned_eval=1000000"], ["--n_layer=1000000000"], ["--n_mlp=1000000000"], ["--no_knob=1"],
    ["--max_len=1000000000"], ["--n_embd=1000000000"], ["--n_head=1000", "--n_kv_head=1"],
    ["--canvas=1099511627776"], ["--canvas=24"], ["--canvas=2"], ["--max_steps"], ["max_steps=3"],
    ["-3"], ["--"], ["--=3"], ["--max_steps=--max_steps"], ["--max_steps=1", "--max_steps=x"],
    ["config/nothing.py"], ["config/smoke.py", "config/rope.py"], ["config"], [""],
    ["--demos=0"], ["--demos=0", "--task_embed"], ["--task_embed"], ["--oversample=2.0"],
    ["--holdout=1/2"], ["--holdout=x", "--train=oned#9"], ["--downweight_above=3"],
    ["--n_embd=33"], ["--n_head=3"], ["--n_head=2", "--n_kv_head=4"], ["--max_answer=320"],
    ["--max_len=641"], ["--micro_tokens=3"], ["--oned_min_width=10"], ["--oned_families=none"],
    ["--oned_families=,"], ["--oned_held_out=1d_fill"], ["--oned_max_width=1000"],
    ["--encoding=none+"], ["--encoding="], ["--encoding=rope+rope+rope"], ["--optimizer="],
    ["--optimizer=sgd"], ["--device=tpu"], ["--device=cuda:99"], ["--dtype=float64"],
    ["--resume"], ["--resume", "--overwrite"], ["--resume", "--init_from=x"], ["--eval_only"],
    ["--eval_only", "--overwrite"], ["--init_from=nothing.pt"], ["--init_from=."],
    ["--train=nothing.json"], ["--train="], ["--train=+"], ["--train=oned#0"],
    ["--train=oned#99999999999"], ["--train=oned+oned"], ["--train=oned@3"], ["--val=oned#-1"],
    ["--val=oned#1e3"], ["--test=arc1:nothing"], ["--tasks=arc3:training"],
    ["--tasks=" + "x" * 5000], ["--tasks=\udcff"], ["--out_dir=/dev/null/x"],
    ["--out_dir=/proc/strain"], ["--out_dir=" + "x" * 300], ["--out_dir=README.md"],
    ["--config=config/smoke.py"], ["--optimizer=muon\n"], ["--seed=01"], ["--seed=1_0", "--x"],
]


# config files that are wrong
BAD_CONFIGS = [
    "n_layer = 1.5", "n_layer = 'two'", "n_layer = None", "n_layer = [1]", "n_layer = lambda: 1",
    "n_layers = 1", "import math\nn_layer = math", "n_layer = 10**5000", "learning_rate = 10**400",
    "learning_rate = float('nan')", "views = True", "colors = 1", "out_dir = 3", "out_dir = b'x'",
    "n_layer = ", "n_layer = one", "n_layer = 1 / 0", "raise SystemExit(0)", "raise SystemExit(3)",
    "import no_such_module", "from config.nothing import *", "\0",
    "def f(): f()\nf()", "n_layer = 1 if", "{" * 300, "x = y = 3", "train = 'nothing.json'",
    "n_layer: int = 1.5", "n_layer = '\udcff'", "encoding = '\x1b[31m'", "from torch import *",
]


def wrong_values(field, rng):
    """Returns text that a knob must refuse."""
    low, high = field.metadata["low"], field.metadata["high"]
    values = ["nan", "inf", "-inf", "", "None", "[1]", "{}", "1e", "0x", "two", "'1'", "\u0661",
              "1,5", "9" * 5000, "(" * 3000, "__import__('os')"]
    if field.type is bool:
        values += ["1", "0", "true", "yes", "2", "1.0"]
    if field.type is int:
        values += ["1.5", "True", "1.5e0", "0x1.8"]
    if field.type is float:
        values += ["True", "1e999", "-1e999", "1+1j"]
    if low is not None:
        values += [str(low - 1), str(-10**30), str(high * 10 + 1), str(10**30)]
    return str(rng.choice(values))


def knob_trial(case):
    """A knob of a wrong type or size, a wrong command line, or a wrong config file."""
    rng, kind, words = case.rng(), case.number % 3, []
    turn = case._replace(number=case.number // 3, count=case.count // 3)
    if kind == 0:
        fields = [field for field in dataclasses.fields(Config) if field.type is not str]
        field = fields[int(rng.integers(len(fields)))]
        wrong, words = [f"--{field.name}={wrong_values(field, rng)}"], [field.name]
        what = wrong
    elif kind == 1:
        what = wrong = turn.pick(WRONG)
    else:
        text = turn.pick(BAD_CONFIGS)
        (case.folder / "mine.py").write_bytes(text.encode("utf-8", "surrogateescape"))
        what, wrong = ["mine.py:", text], [f"{case.folder}/mine.py"]
    script = str(rng.choice(list(SCRIPTS)))
    knobs = {**SMALL, "out_dir": case.folder / "out"}
    if script == "refine":
        knobs = {**knobs, **BASE, "refine_from": case.root / "base" / "ckpt.pt"}
    if kind == 2 and "=" in text:              # the command line comes after the file
        knobs.pop(text.partition("=")[0].strip(), None)
    args = [*wrong, *flags(knobs)] if kind == 2 else [*flags(knobs), *wrong]
    before, talk = contents(case.folder), case.root / f"talk_{case.trial}_{case.number}"
    if case.number % 12 == 5:                  # as a user calls it
        done = end_of(start(script, args, talk), talk)
    else:
        done = call(script, args, talk, LIMIT)
    what = f"{script}.py {' '.join(ascii(part)[:60] for part in what)}"
    return what, first(not_one_line(done, *words), changed(before, case.folder)), 1


# ------------------------------------------------------------------------------------------------
# Any JSON


def json_strategy():
    """Returns hypothesis's strategy of JSON that often is nearly a task file."""
    from hypothesis import strategies as st
    cells = st.integers(0, 9) | st.integers() | st.floats() | st.booleans() | st.none() | st.text()
    rows = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=3)
    grids = rows | st.lists(st.lists(cells, max_size=3), max_size=3)

    def inside(children):
        keys = st.sampled_from(["train", "test", "input", "output"]) | st.text(max_size=9)
        pairs = st.fixed_dictionaries({"input": grids}, optional={"output": grids | children})
        pairs = st.lists(pairs | children, max_size=4)
        tasks = st.fixed_dictionaries({"train": pairs}, optional={"test": pairs})
        return (st.lists(children, max_size=4) | st.dictionaries(keys, children, max_size=4)
                | tasks | st.dictionaries(st.text(max_size=9), tasks, max_size=3))
    return st.recursive(cells | grids, inside, max_leaves=12)


def json_trial(case, seconds=5):
    """Any JSON is read, or refused in one line."""
    try:
        import hypothesis
    except ImportError:
        return "hypothesis is not installed: pip install hypothesis", "", 0
    case.folder.mkdir(parents=True, exist_ok=True)
    path, tried, end = case.folder / "tasks.json", 0, time.time() + seconds
    quiet = dict(database=None, deadline=None, print_blob=False, max_examples=200,
                 suppress_health_check=list(hypothesis.HealthCheck))
    rounds = iter(range(10**6))
    while time.time() < end:
        @hypothesis.seed(10**6 * (case.seed * 1000 + case.number) + next(rounds))
        @hypothesis.settings(**quiet)
        @hypothesis.given(json_strategy())
        def read(value):
            nonlocal tried
            tried += 1
            path.write_text(json.dumps(value))
            try:
                load_tasks(str(path))
            except UserError as error:
                assert str(error).isprintable() and len(str(error)) < 1000, str(error)
        try:
            read()
        except Exception as error:
            return path.read_text()[:200], f"{type(error).__name__}: {short(str(error))}", tried
    return "any JSON", "", tried


# ------------------------------------------------------------------------------------------------
# All trials


class Trial(NamedTuple):
    function: object
    cases: int                                 # of the long form
    short: int


TRIALS = {
    "kill": Trial(signal_trial(signal.SIGKILL), 40, 7),
    "term": Trial(signal_trial(signal.SIGTERM), 40, 3),
    "interrupt": Trial(signal_trial(signal.SIGINT), 40, 3),
    "disk": Trial(disk_trial, 10, 2),
    "two": Trial(two_trial, 7, 2),
    "cut": Trial(cut_trial, 20, 3),
    "bits": Trial(bit_trial, 50, 6),
    "content": Trial(content_trial, len(CONTENT), 8),
    "tasks": Trial(task_trial, len(BAD_FILES), 12),
    "knobs": Trial(knob_trial, 3 * len(WRONG), 15),
    "json": Trial(json_trial, 12, 1),
}


def run_case(case):
    """Returns (case, what was tried, what was wrong, how many)."""
    case.folder.mkdir(parents=True)
    try:
        return case, *TRIALS[case.trial].function(case)
    except Exception:
        return case, "the trial itself", short(traceback.format_exc(), 600), 1
    finally:
        shutil.rmtree(case.folder, ignore_errors=True)


def run_cases(cases, root, show=print):
    """Runs cases, two at a time. Returns {trial: [tried, good]}, and says what was not good."""
    counts = {}
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        if ARMS:
            call("train", flags({**BASE, "out_dir": root / "base"}), root / "base")
        for arm in pool.map(make_reference, [root] * len(ARMS), ARMS):
            show(f"undisturbed: {arm}")
        for case, what, fault, tried in pool.map(run_case, cases):
            count = counts.setdefault(case.trial, [0, 0])
            count[0] += tried
            count[1] += tried - bool(fault)
            show(f"{case.trial}:{case.number}  {what}")
            if fault:
                again = f"python -m tests.strain --seed={case.seed} {case.trial}:{case.number}"
                short_form = " --short" * (case.count != TRIALS[case.trial].cases)
                show(f"    NOT GOOD: {fault}\n    again: {again}{short_form}")
    return counts


def table(counts):
    """Returns the lines of a table: trial, tried, good."""
    lines = ["| trial | tried | good |", "| --- | ---: | ---: |"]
    return lines + [f"| {name} | {tried:,} | {good:,} |" for name, (tried, good) in counts.items()]


def chosen_cases(names, is_short, seed, root):
    """Returns the Cases of trials, or of all; `kill:17` is one case."""
    cases = []
    for name in dict.fromkeys(names or TRIALS):
        name, _, number = name.partition(":")
        if name not in TRIALS:
            sys.exit(f"error: there is no trial {name!r}; there are {', '.join(TRIALS)}")
        count = TRIALS[name].short if is_short else TRIALS[name].cases
        numbers = [int(number)] if number else range(count)
        cases += [Case(name, n, count, seed, root) for n in numbers]
    return cases


def main(argv):
    """Runs trials and prints their table. Returns the exit code."""
    names = [arg for arg in argv if not arg.startswith("--")]
    seed = next((int(arg[7:]) for arg in argv if arg.startswith("--seed=")), 1)
    root = Path(tempfile.mkdtemp(prefix="strain_"))
    begun = time.time()
    try:
        cases = chosen_cases(names, "--short" in argv, seed, root)
        counts = run_cases(cases, root, lambda line: print(line, flush=True))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print("\n" + "\n".join(table(counts)))
    print(f"seed {seed}, {time.time() - begun:.0f} s")
    bad = sum(tried - good for tried, good in counts.values())
    print(f"{bad} were not good" if bad else "all good")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
