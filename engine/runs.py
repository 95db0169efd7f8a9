"""What a run leaves and goes on from: folder, log, state; Ctrl-C; memory that runs out."""
import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import inspect
import json
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

try:
    import fcntl
except ImportError:                            # Windows: folders are not locked there
    fcntl = None

import numpy as np
import torch

from arc.files import append_line, whole_file, write_error, write_json, write_text
from arc.leaks import key_text
from arc.sources import file_hashes, first_of
from config import UserError, load_config
from engine import ranks
from engine.checkpoints import KIND, MAY_CHANGE, check_same_network, differing
from engine.devices import describe_step, is_out_of_memory, pick_device
from engine.optim import averaged, learning_rate
from positions.index import find

# ------------------------------------------------------------------------------------------------
# The folder and the log


def clock(seconds):
    """Returns a time as 3:07, 2:03:07 or "1 day, 2:03:07"."""
    return re.sub("^0:0?", "", str(datetime.timedelta(seconds=int(seconds))))


class Log:
    """Lines for people to the screen and log.txt, records for programs to metrics.jsonl."""

    def __init__(self, folder, tensorboard=False):
        self.folder, self.open_board, self.board = Path(folder), None, None
        self.writes = ranks.rank() == 0        # one process of several
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("--tensorboard needs the package tensorboard: pip install "
                                "tensorboard") from None
            self.open_board = SummaryWriter

    def __call__(self, text):
        if not self.writes:
            return
        append_line(self.folder / "log.txt", re.sub(r"\033\[[\d;]*m", "", text))    # no colors
        try:
            print(text, flush=True)
        except (OSError, ValueError):          # `| head` has seen enough, or stdout is full
            sys.stdout = open(os.devnull, "w")

    def write_json(self, name, value):
        if self.writes:
            write_json(self.folder / name, value)

    def record(self, **values):
        if not self.writes:
            return
        append_line(self.folder / "metrics.jsonl", json.dumps(values))
        if self.open_board:
            step = values["step"]
            self.board = self.board or self.open_board(self.folder, purge_step=step)
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(f"{values['kind']}/{name}", value, step)
            self.board.flush()

    def read(self):
        """Returns (the records, how many lines are damaged and left out)."""
        path, found, damaged = self.folder / "metrics.jsonl", [], 0
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
                step = int(record.get("step", 0))
                if record["kind"] == "val":
                    quality(record)
                found.append({**record, "kind": record["kind"], "step": step})
            except Exception:
                damaged += 1
        return found, damaged

    def records(self):
        return self.read()[0]

    def forget_after(self, step):
        """Removes the records of steps that a resumed run will record again, and damaged lines."""
        found, damaged = self.read()
        kept = [json.dumps(record) + "\n" for record in found if record["step"] <= step]
        if self.writes and len(kept) < len(found) + damaged:
            write_text(self.folder / "metrics.jsonl", "".join(kept))
        if damaged:
            self(f"metrics.jsonl: {damaged} damaged lines are left out")

    def times_scored(self, source):
        """Returns how often these tasks were scored in this folder, this time included."""
        scored = [r.get("source") for r in self.records() if r["kind"] == "test"]
        return 1 + scored.count(source)

    def summarize(self, metrics, started, explained):
        """Writes the last lines of a run, to be found by grep. explained: where names are."""
        metrics["minutes"] = (time.time() - started) / 60    # all but the imports
        self(f"\n--- what these mean: {explained}")
        for key, value in metrics.items():
            if isinstance(value, float):
                self(f"{key}: {value:.4f}")
            elif value is not None and not isinstance(value, dict):
                self(f"{key}: {value}")


def set_up(argv):
    """Returns (Config, knobs as given, torch device, what is to be said of it)."""
    config, given = load_config(sys.argv[1:] if argv is None else argv)
    device, why = pick_device(config)
    torch.set_float32_matmul_precision("high")    # TF32 where float32 meets an NVIDIA GPU
    return config, given, device, f"{device.type} ({why}{describe_step(config, device)})"


def announce(data, model, log, machine, *checkpoints):
    """Logs the device, what is trained on and judged on, and the size of the network.

    checkpoints: those that weights come from, or None.
    """
    log(f"device: {machine}; torch {torch.__version__}")
    for line in data.lines + checkpoint_lines(model.config, data.val + data.test, *checkpoints):
        log(line)
    network, tables = model.count_parameters()
    log(f"model: {network:,} parameters and {tables:,} in embedding tables; encoding "
        f"{model.config.encoding}, canvas {model.config.canvas}")
    if model.config.pretrained:
        log(f"no longer from scratch: blocks and final norm began as those of "
            f"{model.config.pretrained}; the leak guard knows nothing of what it was trained on")


def check_folder(config):
    """Says why out_dir cannot be used. Nothing is changed yet."""
    folder = place = Path(config.out_dir)
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise UserError(f"out_dir {folder}: cannot be written, {place} is no folder, or not yours; "
                        "name another with --out_dir=")
    if not (config.resume or config.eval_only or config.overwrite):
        if [*folder.glob("*.pt"), *folder.glob("submission.json")]:
            raise UserError(f"out_dir {folder} already holds a run: go on with --resume, replace "
                            "it with --overwrite, or name another with --out_dir=")


# open files: a lock ends with its process, and with its file. lockf, as workers do not inherit it
LOCKS = []


def take_folder(config):
    """Makes out_dir, refuses it where another process uses it, and deletes an older run's texts.

    Its checkpoints go when the new run has one: see Run.save.
    """
    ranks.wait_for_all()                       # all have looked at what was there
    if ranks.rank():
        return
    folder = Path(config.out_dir)
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")
    except OSError as error:
        raise write_error(path, error) from None
    try:
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        raise UserError(f"out_dir {folder}: {file.read().strip() or 'another process'} is writing "
                        "there; wait for it, stop it, or name another --out_dir=") from None
    except OSError:                            # a file system without locks
        pass
    file.truncate(0)
    file.write(f"process {os.getpid()} of {platform.node()}\n")
    file.flush()
    LOCKS.append(file)
    if not (config.resume or config.eval_only):
        for name in ("submission.json", "log.txt", "metrics.jsonl", "report.html", "eval.json"):
            if (folder / name).is_file():
                (folder / name).unlink()


# the files that decide how train.py's network learns, besides its encoding and its start
CODE = ("train.py", "model.py", "engine/batches.py", "engine/checkpoints.py",
        "engine/cuda_graphs.py", "engine/devices.py", "engine/optim.py", "engine/ranks.py",
        "arc/leaks.py", "arc/oned.py", "arc/sources.py", "arc/task.py", "arc/tokens.py",
        "arc/views.py")


def code_hash(config):
    """Returns 12 hex digits for the files of CODE and of a config's encoding, comments too.

    Of an encoding's files: that of its class and of the classes that this one builds on.
    """
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    classes = {kind for name in config.encoding.split("+") for kind in find(name).__mro__}
    own = {inspect.getsourcefile(kind) for kind in classes
           if kind.__module__.split(".")[0] not in ("torch", "builtins")}
    for name in [*CODE, *sorted(own)]:         # an absolute path stays as it is
        digest.update((root / name).read_bytes())
    return digest.hexdigest()[:12]


def checkpoint_lines(config, tasks, *checkpoints):
    """Returns what the log says of checkpoints: code that changed since, and tasks they know.

    config: one with the name of the encoding. tasks: those of val and test.
    """
    checkpoints = [found for found in checkpoints if found]
    lines = [f"note: the checkpoint has knobs that this code lacks: {', '.join(found['lacking'])}"
             for found in checkpoints if found["lacking"]]
    made_by = {found["versions"].get("code") for found in checkpoints}
    if made_by and made_by != {code_hash(config)}:
        lines.append("note: a file that decides how the network learns, or its encoding, changed "
                     "since the checkpoint; if more than words changed, this is another network, "
                     "or another run")
    # the leak guard looks at what this run trains on; an earlier one may have seen the answers
    trained = {key for found in checkpoints for key in found["trained_keys"]}
    known = {task.id for task in tasks if any(key_text(pair) in trained for pair in task.test)}
    if known:
        lines.append(f"note: the checkpoint was trained on test pairs of {len(known)} tasks of val "
                     f"or test, so their score says nothing of new ones: {first_of(sorted(known))}")
    return lines


def versions(config=None):
    """Returns the versions of all that decides a result; with a config also its code's hash."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(command, capture_output=True, text=True,
                                cwd=Path(__file__).parent).stdout.strip()
    except OSError:
        commit = ""
    return dict(python=platform.python_version(), torch=str(torch.__version__),
                numpy=np.__version__, commit=commit or "unknown",
                schedulefree=importlib.metadata.version("schedulefree"),
                **(dict(code=code_hash(config)) if config else {}))


def write_config(log, config, given, machine, argv, **facts):
    """Writes config.json: every knob, those given, versions, hashes of files, machine, command.

    --eval_only in a run's own folder writes eval.json: the run's config.json stays.
    """
    command = shlex.join(sys.argv) if argv is None else ""
    name = "eval.json" if config.eval_only and not config.tasks else "config.json"
    log.write_json(name, {
        **dataclasses.asdict(config), "given": given, "versions": versions(config),
        "files": file_hashes(config), "machine": machine, "command": command, **facts})


def solving_folder(config, trained):
    """Returns the config with a folder of its own below out_dir where other tasks are solved.

    So the run's own report and submission stay. trained: the checkpoint's config.
    """
    if not config.eval_only:
        return config
    if not config.test:
        raise UserError("nothing to solve: name tasks with --test= or --tasks=")
    if config.test == trained["test"]:         # the run's own folder, whose config.json stays
        return dataclasses.replace(config, tasks="")
    names = [Path(part).resolve().name for part in config.test.split("+")]
    name = re.sub(r"[^\w-]+", "_", "+".join(names).replace(".json", "")).strip("_") or "tasks"
    folder = f"{config.out_dir}/{'tasks_' * (name == 'refine')}{name}"
    earlier = config.test
    with contextlib.suppress(OSError, ValueError, KeyError):
        earlier = json.loads(Path(folder, "config.json").read_bytes())["tasks"]
    if earlier != config.test:
        raise UserError(f"{folder} holds the answers to {earlier}; name another --out_dir= for "
                        f"{config.test}")
    return dataclasses.replace(config, out_dir=folder, tasks=config.test)


# ------------------------------------------------------------------------------------------------
# The state of a run

def quality(metrics):
    """Returns (exact, -loss) of val's metrics: the largest is the best checkpoint's."""
    return float(metrics["exact"]), -float(metrics["loss"])


class Run:
    """What training changes, and how it is saved and restored."""

    def __init__(self, config, model, optimizer, task_ids, log, data=""):
        """data: a fingerprint of the tasks (arc.sources), which --resume must find unchanged."""
        self.config, self.model, self.optimizer = config, model, optimizer
        self.task_ids, self.log, self.data = task_ids, log, data
        self.device = next(model.parameters()).device
        self.first_step = self.step = 0        # first_step: of refine.py, the base network's
        self.seconds = 0.0
        self.best = None                       # (exact, -loss) on val
        self.validated_step = None             # by an earlier session: its metrics of val are known
        # checkpoints of an older run, which the first of this one replaces
        older = Path(config.out_dir).glob("*.pt") if config.overwrite else ()
        self.replaces = [path for path in older if path.is_file()]
        self.trained_keys = []                 # of pairs that this run or an earlier one shows
        self.extra = {}                        # what else a checkpoint holds, for refine.py
        self.agree = ranks.Agreement()         # on the number of a signal, where ranks are several
        self.versions = versions(config)       # of the start: files may be edited during a run

    def save(self, name, training=True):
        """Saves the averaged weights, for prediction and --init_from.

        training: also the weights in training and the optimizer's state, for --resume.
        """
        if not self.log.writes:
            self.replaces = []
            return
        state = dict(
            kind=KIND, network=type(self.model).__name__, config=dataclasses.asdict(self.config),
            model_config=dataclasses.asdict(self.model.config), task_ids=self.task_ids,
            step=self.step, best=self.best, seconds=self.seconds, versions=self.versions,
            data=self.data, trained_keys=self.trained_keys, **self.extra)
        if training:
            weights = self.model.state_dict()
            state["training"] = {key: value.detach().clone() for key, value in weights.items()}
            state["optimizer"] = self.optimizer.state_dict()
        path = Path(self.config.out_dir) / name
        with averaged(self.model, self.optimizer):
            state["model"] = self.model.state_dict()
            with whole_file(path) as file:
                torch.save(state, file)
        for old in self.replaces:
            if old != path:
                old.unlink(missing_ok=True)
        self.replaces = []

    def resume(self, found):
        """Restores weights, optimizer, step, best score and times; samples follow from the step.

        found: a checkpoint's dict.
        """
        path = found["path"]
        again = "; give the whole command again that config.json holds, and --resume"
        check_same_network(found, self.model.config, again)
        if "training" not in found:
            raise UserError(f"{path}: holds weights only, nothing to resume from; "
                            f"--init_from={path} starts from them")
        differences = differing(found["config"], self.config, MAY_CHANGE)
        if differences:
            raise UserError(f"--resume goes on with the same run, but {differences}{again}. To "
                            f"start a new one from these weights, a longer one too: --init_from="
                            f"{path} and another --out_dir")
        if found["data"] != self.data or found["task_ids"] != self.task_ids:
            raise UserError("--resume goes on with the same run, but its task files hold other "
                            "tasks now, or in another order. To train on these: --init_from="
                            f"{path} and another --out_dir")
        if not self.first_step <= found["step"] <= self.config.max_steps:
            raise UserError(f"{path}: its step {found['step']} is not between {self.first_step} "
                            f"and {self.config.max_steps}; take another checkpoint of the run")
        self.model.load_state_dict(found["training"])
        self.model.config.pretrained = found["model_config"].get("pretrained", "")
        self.optimizer.restore(found)
        self.step, self.seconds = found["step"], found["seconds"]
        # a checkpoint is written before its step is judged, so the records know more
        recorded = {record["step"]: quality(record) for record in self.log.records()
                    if record["kind"] == "val" and record["step"] <= self.step}
        self.validated_step = max(recorded, default=None)
        self.best = max([*recorded.values(), found["best"] or ()]) or None

    def due(self, every):
        """Returns whether something is to be done at this step, every so many steps."""
        return every > 0 and self.step > self.first_step and self.step % every == 0

    def record_validation(self, metrics):
        """Records the metrics of val, and saves best.pt where they are the best so far."""
        if self.best is None or quality(metrics) > self.best:
            self.best = quality(metrics)
            self.save("best.pt", training=False)
        # last, as a step that is on record is not judged again
        self.log.record(kind="val", step=self.step, seconds=self.seconds, **metrics)

    def check_finite(self, losses, grad_norm):
        """UserError, before anything is overwritten, where a loss or gradient is no number."""
        loss = losses[0]
        if not all(map(math.isfinite, [*losses, grad_norm])):
            good = Path(self.config.out_dir) / "ckpt.pt"
            kept = "nothing of this run was saved yet"
            if good.exists() and good not in self.replaces:    # those are an older run's
                kept = f"{good} is the last good checkpoint"
            raise UserError(f"step {self.step}: loss {loss}, gradient norm {grad_norm}. Stopped; "
                            f"{kept}. Try a lower --learning_rate, or --dtype=float32")

    def worker_died(self, error, losses, grad_norm):
        """Saves, and raises what to say where a process that prepares batches died."""
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise error
        self.check_finite(losses, grad_norm)
        self.save("ckpt.pt")
        raise UserError(f"step {self.step}: a process that prepares batches died"
                        f"{'; saved' if self.log.writes else ''}. Go on with --resume, and perhaps "
                        "--workers=0") from None

    def exit_after_signal(self, number):
        """Ends all ranks after a signal; what they did is saved."""
        self.log(f"interrupted at step {self.step}; saved. Go on with --resume")
        ranks.leave()
        raise SystemExit(128 + number)

    def halve_if_out_of_memory(self, work, micro_tokens):
        """Returns (work(micro_tokens), micro_tokens), these halved until memory suffices."""
        while True:
            try:
                return work(micro_tokens), micro_tokens
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            smaller = max(micro_tokens // 2, self.config.max_len)
            if smaller == micro_tokens:
                raise UserError(f"out of memory with {micro_tokens} tokens at once, which is "
                                "max_len: lower --max_len, --n_embd or --n_layer")
            self.optimizer.zero_grad()
            self.log(f"  out of memory at step {self.step}: {smaller} tokens at once instead of "
                     f"{micro_tokens}; the step is repeated with the same samples "
                     f"(--micro_tokens={smaller} starts that way)")
            micro_tokens = smaller
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class Progress:
    """How fast training is.

    ms and tok/s leave out evaluation and saving; seconds and ETA do not. ETA leaves out the first
    steps of a session, which may compile.
    """
    SILENCE = 30                               # seconds, after which there is a line in any case
    FIRST = 3                                  # steps

    def __init__(self, run):
        self.run, self.first_step = run, run.step
        self.begun = time.time() - run.seconds
        self.restart()
        self.count(0)

    def count(self, tokens):
        """Counts the tokens of a finished step."""
        self.tokens += tokens
        if self.run.step <= self.first_step + self.FIRST:      # the rest is what ETA counts
            self.from_step, self.from_time = self.run.step, time.time()

    def due(self):
        """Returns whether to report although log_every does not ask for it: slow steps."""
        return self.run.step > self.marked_step and time.time() - self.mark > self.SILENCE

    def restart(self):
        self.mark, self.marked_step, self.tokens = time.time(), self.run.step, 0

    def report(self, losses, grad_norm):
        """Logs a line and a record. losses: (over all outputs, over the queries' outputs)."""
        run, config, now = self.run, self.run.config, time.time()
        run.seconds = now - self.begun
        if run.step == self.marked_step:
            return
        elapsed = max(now - self.mark, 1e-6)   # coarse clocks may not have moved
        ms = 1000 * elapsed / (run.step - self.marked_step)
        lr = learning_rate(config, run.optimizer, run.step - 1)
        eta = "unknown"
        if run.step > self.from_step:
            per_step = (now - self.from_time) / (run.step - self.from_step)
            eta = clock((config.max_steps - run.step) * per_step)
        run.log(f"step {run.step:6d}/{config.max_steps} {run.step / config.max_steps:4.0%}  "
                f"loss {losses[1]:.4f}  lr {lr:.2e}  norm {grad_norm:5.2f}  {ms:6.1f} ms  "
                f"{self.tokens / elapsed:7.0f} tok/s  ETA {eta}")
        run.log.record(kind="train", step=run.step, loss=losses[1], loss_all_outputs=losses[0],
                       lr=lr, norm=grad_norm, ms=ms, seconds=run.seconds)


@contextlib.contextmanager
def interruptible():
    """Inside, Ctrl-C, SIGTERM and SIGHUP only set a flag; a second Ctrl-C interrupts.

    Yields a function that returns the number of the signal that came first, or 0. SLURM, `timeout`
    and a closed terminal send the other two.
    """
    came = []

    def handle(number, frame):
        # torchrun passes Ctrl-C on, so that each process gets it twice
        if came and number == signal.SIGINT and ranks.world() == 1:
            signal.default_int_handler(number, frame)
        came.append(number)
    previous = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):           # only the main thread may
        number = getattr(signal, name, None)               # SIGHUP is not on Windows
        if number and signal.getsignal(number) != signal.SIG_IGN:     # nohup: it is not to stop
            previous[number] = signal.signal(number, handle)
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def command_line(main, verb):
    """Runs a script: one line for what its user can mend; Ctrl-C exits with 130.

    verb: what --eval_only does, such as "predicts".
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout = sys.stdout or open(os.devnull, "w")    # it may be closed
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):     # a locale that knows few characters ends no run
            stream.reconfigure(errors="backslashreplace")
    try:
        if len(sys.argv) < 2:
            raise UserError(f"say what to run: python {sys.argv[0]} config/quadtree.py is a start "
                            "(4 minutes on a laptop); --help lists the knobs")
        main()
        ranks.leave()
    except KeyboardInterrupt:
        print("interrupted. What was saved is kept: --resume goes on training; after its end "
              f"--eval_only {verb} and scores again", file=sys.stderr)
        sys.exit(130)
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        if ranks.rank():                       # rank 0 may report the same error first; then
            time.sleep(5)                      # torchrun ends this process
        sys.exit(f"error: {describe_error(error)}")
    finally:                                   # Python still unloads torch: Ctrl-C just ends that
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def describe_error(error):
    """Returns an error as one line that any terminal can show."""
    text = str(error).rpartition("UserError: ")[2].strip()     # of a worker: below its traceback
    if not isinstance(error, (UserError, OSError)):
        text = text.splitlines()[0] if text else "on the host"
        text = (f"out of memory ({text}). What was saved is kept. Lower --micro_tokens, "
                "--predict_tokens, --n_embd or --n_layer")
    if len(text) > 2000:
        text = f"{text[:1000]} ... {text[-900:]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
