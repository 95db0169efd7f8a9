"""Nothing is lost: writes are whole, one run owns a folder, what is damaged is named."""
import copy
import importlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, TINY, checkpoint, flags, flip_tasks, records, tiny_config, write_tasks

import model as model_file
import refine
import train
from arc import files
from arc.files import append_line, whole_file, write_text
from arc.sources import Data, fingerprint
from arc.task import Task
from config import Config, UserError, load_config
from engine import runs
from engine.optim import OPTIMIZERS, Optimizer, muon
from engine.predict import make_queries
from engine.runs import Log
from positions import index
from positions.base import Encoding


# ------------------------------------------------------------------------------------------------
# Writes


class FullDisk:
    """A binary file on a disk that takes `room` bytes more."""

    def __init__(self, file, room, raw):
        self.file, self.room, self.raw = file, room, raw

    def write(self, data):
        data = bytes(data)
        taken = data[:self.room]
        self.room -= len(taken)
        self.file.write(taken)
        if not taken or not self.raw and len(taken) < len(data):
            raise OSError(28, "No space left on device")
        return len(taken)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@pytest.fixture
def full(monkeypatch):
    """full(room): files that arc.files opens take so many bytes each."""
    def full(room):
        monkeypatch.setattr(files, "open", lambda *args, **knobs: FullDisk(
            open(*args, **knobs), room, bool(knobs)), raising=False)
    return full


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, full):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    full(2)
    message = r"a.txt: cannot be written \(No space left .* MiB are free"
    with pytest.raises(UserError, match=message):
        write_text(path, "new one")
    with pytest.raises(UserError, match="b.pt: cannot be written"), whole_file(path.with_name(
            "b.pt")) as file:
        torch.save(dict(a=torch.zeros(1000)), file)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"


def test_a_line_is_appended_whole_or_not_at_all(tmp_path, full, monkeypatch):
    path = tmp_path / "a.txt"
    append_line(path, "one")
    full(2)
    with pytest.raises(UserError, match="a.txt: cannot be written"):
        append_line(path, "two")
    assert path.read_text() == "one\n"
    monkeypatch.undo()
    path.write_text("one\ncut sho")            # a process was killed as it wrote
    append_line(path, "three")
    assert path.read_text() == "one\ncut sho\nthree\n"


@pytest.mark.parametrize("room", [0, 100, 3000, 20_000, 60_000])
def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(run, tmp_path, room,
                                                                     monkeypatch, full):
    run(out="whole", max_steps=4, eval_every=2, log_every=2)
    full(room)
    try:
        run(max_steps=4, eval_every=2, log_every=2)
    except UserError as error:
        assert "cannot be written" in str(error)
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "run"
    assert not list(folder.glob("*.tmp"))
    saved = (folder / "ckpt.pt").exists()
    run(max_steps=4, eval_every=2, log_every=2, **dict(resume=True) if saved else {})
    same = [checkpoint(tmp_path / name)["model"] for name in ("whole", "run")]
    assert all(torch.equal(same[0][key], same[1][key]) for key in same[0])
    assert [r["loss"] for r in records(folder, "val")] == [
        r["loss"] for r in records(tmp_path / "whole", "val")]


def test_damaged_records_are_left_out_and_counted(tmp_path, capsys):
    log = Log(tmp_path)
    log.record(kind="val", step=2, exact=0.5, loss=1.0)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'\x80\xff\n[1, 2]\n{"kind": "val", "step": "x"}\n7\n{"kind": "va')
    log.record(kind="val", step=4, exact=0.6, loss=0.9)
    assert [record["step"] for record in log.records()] == [2, 4]
    log.forget_after(3)
    assert "metrics.jsonl: 5 damaged lines are left out" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    assert log.times_scored("x") == 1


def test_a_run_outlives_damaged_records(run, tmp_path):
    run(max_steps=4, eval_every=2)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "val", "st')
    run(max_steps=4, eval_every=2, resume=True)
    run(eval_only=True)
    assert [record["step"] for record in records(tmp_path / "run", "val")] == [2, 4]


def test_a_folder_that_is_deleted_in_the_midst_is_made_again(run, tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 1.0])

    def validate(*args):
        for path in (tmp_path / "run").iterdir():
            path.unlink()
        (tmp_path / "run").rmdir()
        return dict(exact=0.0, loss=next(losses))
    monkeypatch.setattr(train, "validate", validate)
    run(max_steps=3, eval_every=1)
    assert checkpoint(tmp_path / "run", "best.pt")["step"] == 3
    assert (tmp_path / "run" / "submission.json").exists()


def test_overwrite_replaces_files_alone(run, tmp_path):
    """A folder with the name of a checkpoint stays; the last run's eval.json does not."""
    folder = tmp_path / "run"
    run(eval_every=2)
    run(eval_only=True)
    (folder / "notes.pt").mkdir()
    (folder / "step2.pt").write_bytes(b"older")
    run(eval_every=2, overwrite=True)
    assert (folder / "notes.pt").is_dir()
    assert not (folder / "step2.pt").exists()
    assert not (folder / "eval.json").exists()


# ------------------------------------------------------------------------------------------------
# One run a folder


def start(folder, *args, **options):
    """Starts train.py in a process of its own, for many steps."""
    knobs = {**TINY, "out_dir": folder, "max_steps": 10**6, "eval_every": 20}
    command = [sys.executable, "train.py", *flags(**knobs), *args]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)


def wait_for(path, process):
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError(f"{path} does not appear")


def test_a_second_run_in_a_folder_is_refused_until_the_first_one_dies(run, tmp_path):
    first = start(tmp_path / "run", "--workers=1")
    try:
        wait_for(tmp_path / "run" / "ckpt.pt", first)
        config = (tmp_path / "run" / "config.json").read_text()
        for knobs in (dict(overwrite=True), dict(resume=True, max_steps=10**6, eval_every=20),
                      dict(eval_only=True)):
            with pytest.raises(UserError, match=f"run: process {first.pid} .*--out_dir="):
                run(**knobs)
        assert (tmp_path / "run" / "config.json").read_text() == config
    finally:
        first.kill()                           # its worker lives a little longer
        first.communicate()
    run(overwrite=True)


def test_a_worker_that_dies_costs_no_step(tmp_path):
    process = start(tmp_path / "run", "--workers=1", "--log_every=1")
    wait_for(tmp_path / "run" / "ckpt.pt", process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[-1]), 9)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    last = records(tmp_path / "run", "train")[-1]["step"]
    assert checkpoint(tmp_path / "run")["step"] in (last, last + 1)
    assert "a process that prepares batches died; saved. Go on with --resume" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("seconds", [0, 0.3, 1])
def test_ctrl_c_in_the_first_seconds_leaves_no_traceback(tmp_path, seconds):
    process = start(tmp_path / "run")
    maps = f"/proc/{process.pid}/maps"         # until torch is being imported
    while os.path.exists(maps) and "torch" not in open(maps).read():
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(2)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-2, 130), err    # -2: a shell says 130
    assert "Traceback" not in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_or_closed_stdout_ends_no_run(tmp_path):
    for out in ("/dev/full", None):
        knobs = flags(**{**TINY, "out_dir": tmp_path / "run", "overwrite": True})
        command = [sys.executable, "train.py", *knobs]
        if out:
            with open(out, "w") as file:
                done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.PIPE)
        else:
            shell = ["sh", "-c", 'exec "$@" >&-', "sh"]
            done = subprocess.run(shell + command, cwd=ROOT, stderr=subprocess.PIPE)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert (tmp_path / "run" / "submission.json").exists()


# ------------------------------------------------------------------------------------------------
# Checkpoints with wrong content


def places(value, path=()):
    """Yields the path of everything in nested dicts and lists, at most 3 deep."""
    if path:
        yield path
    if len(path) < 3:
        keys = value if isinstance(value, dict) else (
            range(min(3, len(value))) if isinstance(value, (list, tuple)) else ())
        for key in keys:
            yield from places(value[key], path + (key,))


def change(found, path, how):
    """Changes a checkpoint's dict at one place. Returns None where it cannot be."""
    *outer, key = path
    for step in outer:
        found = found[step]
    if isinstance(found, tuple):
        return None
    if how == "gone":
        del found[key]
    else:
        found[key] = how
    return found


WRONG = ["gone", None, "text", -3, [], {}, 2.5, torch.zeros(3, 2)]


def test_wrong_content_of_a_checkpoint_is_one_line(run, tmp_path, monkeypatch):
    """Whatever is changed in its dict: it is refused, or it is of no account."""
    run(max_steps=2)
    path = tmp_path / "run" / "ckpt.pt"
    sound = checkpoint(tmp_path / "run")
    monkeypatch.setattr(train, "fit", lambda *args: None)
    monkeypatch.setattr(train, "predict_and_score", lambda *args: ({}, {}))
    monkeypatch.setattr(train, "write_report", lambda *args: None)
    monkeypatch.setattr(Log, "__call__", lambda *args: None)
    rng = random.Random(0)
    every = [(place, how) for place in places(sound) for how in WRONG]
    tried = refused = 0
    for place, how in rng.sample(every, 300):
        found = copy.deepcopy(sound)
        if change(found, place, how) is None:
            continue
        torch.save(found, path)
        for knobs in (dict(resume=True), dict(eval_only=True),
                      dict(init_from=path, out="other", overwrite=True)):
            tried += 1
            try:
                run(max_steps=2, **knobs)
            except UserError as error:
                refused += 1
                assert "ckpt.pt" in str(error) and "\n" not in str(error), (place, how)
            except Exception as error:
                raise AssertionError(f"{place} = {how!r}, {knobs}") from error
    assert tried > 500 and refused > tried / 2


def test_a_checkpoint_of_a_network_that_was_changed_says_what_differs(run, tmp_path):
    """A fork gave ModelConfig a field without a default; another one made the head wider."""
    run(max_steps=2)
    path, sound = tmp_path / "run" / "ckpt.pt", checkpoint(tmp_path / "run")
    lacking = copy.deepcopy(sound)
    del lacking["model_config"]["n_mlp"]
    wider = copy.deepcopy(sound)
    wider["model"]["head.weight"] = torch.zeros(15, sound["model_config"]["n_embd"])
    for found, message in (
            (lacking, "model_config: n_mlp is lacking, and has no default"),
            (wider, r"model: head.weight is .* \(15, 32\), and this code's is .* \(14, 32\)")):
        torch.save(found, path)
        with pytest.raises(UserError, match=message):
            run(max_steps=2, eval_only=True)


@pytest.mark.parametrize("optimizer", ["muon_schedulefree", "schedulefree", "adamw", "muon"])
def test_another_optimizers_state_is_not_resumed(run, tmp_path, optimizer):
    run(optimizer=optimizer)
    path = tmp_path / "run" / "ckpt.pt"
    sound = checkpoint(tmp_path / "run")
    run(optimizer=optimizer, resume=True)      # as it is, it is resumed
    for spoil in (lambda state: state.clear(), lambda state: state.pop(),
                  lambda state: state.append(state[0]),
                  lambda state: state[0]["param_groups"].pop(),
                  lambda state: state[0]["param_groups"][-1].pop("weight_decay")):
        found = copy.deepcopy(sound)
        spoil(found["optimizer"])
        torch.save(found, path)
        with pytest.raises(UserError, match="ckpt.pt: no state of the optimizer .*--init_from="):
            run(optimizer=optimizer, resume=True)


# ------------------------------------------------------------------------------------------------
# Memory, knobs, demonstrations


def test_a_network_larger_than_the_memory_is_refused_before_it_is_built(run, tmp_path):
    with pytest.raises(UserError, match="parameters takes .* GiB in training.*--n_embd"):
        run(n_embd=200_000, n_mlp=200_000)
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_anywhere_is_one_line(monkeypatch, capsys):
    def main():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nmore")
    monkeypatch.setattr(sys, "argv", ["train.py", "config/smoke.py"])
    with pytest.raises(SystemExit) as stopped:
        runs.command_line(main, "predicts")
    assert str(stopped.value).startswith("error: out of memory (DefaultCPUAllocator")
    assert "\n" not in str(stopped.value) and "Lower --micro_tokens" in str(stopped.value)

    def main():
        raise RuntimeError("a fault of the program")
    with pytest.raises(RuntimeError, match="a fault"):
        runs.command_line(main, "predicts")


def test_an_error_cannot_move_the_cursor():
    assert runs.describe_error(UserError("a\x1b[2Jb\nc é")) == r"a\x1b[2Jb\nc é"


@pytest.mark.parametrize("knob", ["demos=1000000000", "learning_rate=1e99", "views=1000000",
                                  "oned_eval=1000000", "batch_tokens=1000000000", "n_layer=100000"])
def test_an_absurd_knob_is_refused_at_once(run, tmp_path, knob):
    began = time.time()
    with pytest.raises(UserError, match=f"{knob.partition('=')[0]} = .* is out of its range"):
        run("config/smoke.py", **dict([knob.split("=")]))
    assert time.time() - began < 5 and not (tmp_path / "run").exists()


def test_nothing_is_run_without_being_asked(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit, match="say what to run: python train.py config/quadtree.py"):
        runs.command_line(train.main, "predicts")
    with pytest.raises(UserError, match="rope.py: a second config file"):
        train.main(["config/smoke.py", "config/rope.py"])


def test_a_frozen_matrix_stays_as_it_is(run, tmp_path, monkeypatch):
    made = []

    class Frozen(train.GPT):
        def __init__(self, config):
            super().__init__(config)
            self.blocks[0].mlp.down.weight.requires_grad_(False)
            made.append(self.blocks[0].mlp.down.weight.clone())
    monkeypatch.setattr(train, "GPT", Frozen)
    for optimizer in ("muon_schedulefree", "schedulefree", "adamw", "muon"):
        run(optimizer=optimizer, out=optimizer)
        after = checkpoint(tmp_path / optimizer)["model"]
        assert torch.equal(after["blocks.0.mlp.down.weight"], made[-1])
        assert after["blocks.0.mlp.gate.weight"].abs().sum() > 0


def test_views_draw_other_demonstrations_where_a_task_has_more(run, tmp_path, capsys):
    def pair(i):
        grid = [[i % 10, i // 10, 1]]
        return torch.tensor(grid).byte().numpy(), torch.tensor(grid).byte().numpy()
    task = Task("many", [pair(i) for i in range(10)], [pair(11)])
    queries = make_queries([task], 6, Config(demos=3))
    assert queries[0].demos == (0, 1, 2)
    assert all(len(set(q.demos)) == 3 and list(q.demos) == sorted(q.demos) for q in queries)
    assert len({q.demos for q in queries}) > 3
    assert {k for q in make_queries([task], 40, Config(demos=3)) for k in q.demos} == set(range(10))
    run(test="")
    raw = [dict(input=a.tolist(), output=b.tolist()) for a, b in task.train]
    tasks = dict(many=dict(train=raw, test=[dict(input=task.test[0][0].tolist())]))
    (tmp_path / "many.json").write_text(json.dumps(tasks))
    run(eval_only=True, tasks=tmp_path / "many.json")
    assert "1 of 1 tasks have more than demos = 3 demonstrations" in capsys.readouterr().out


def test_tensorboard_gets_the_records_or_says_what_it_needs(run, tmp_path, monkeypatch):
    scalars = []

    class Writer:
        def __init__(self, folder, purge_step):
            scalars.append(("from", purge_step))

        def add_scalar(self, name, value, step):
            scalars.append((name, value, step))

        def flush(self):
            pass
    board = type(sys)("torch.utils.tensorboard")
    board.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    run(tensorboard=True, log_every=1)
    names = {name for name, *_ in scalars}
    assert {"from", "train/loss", "val/exact", "test/pass2"} <= names
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="--tensorboard needs the package.*pip install tensorboard"):
        run(tensorboard=True, out="other")
    assert not (tmp_path / "other").exists()


# ------------------------------------------------------------------------------------------------
# What the strain command found


def test_a_run_killed_after_a_snapshot_can_go_on(run, tmp_path, monkeypatch):
    """A snapshot that is kept comes with a ckpt.pt, or --resume would have nothing to read."""
    real = runs.Run.save

    def save(self, name, training=True):
        real(self, name, training)
        if name.startswith("step_"):
            raise KeyboardInterrupt
    monkeypatch.setattr(runs.Run, "save", save)
    with pytest.raises(KeyboardInterrupt):
        run(max_steps=6, eval_every=6, keep_every=2)
    monkeypatch.setattr(runs.Run, "save", real)
    assert run(max_steps=6, eval_every=6, keep_every=2, resume=True)["step"] == 6


def test_a_run_killed_as_it_records_a_judged_step_loses_no_best(run, tmp_path, monkeypatch):
    real = Log.record

    def record(self, **values):
        if values["kind"] == "val":
            raise KeyboardInterrupt
        real(self, **values)
    monkeypatch.setattr(Log, "record", record)
    with pytest.raises(KeyboardInterrupt):
        run(max_steps=4, eval_every=2)
    monkeypatch.setattr(Log, "record", real)
    run(max_steps=4, eval_every=2, resume=True)
    best = checkpoint(tmp_path / "run", "best.pt")["step"]
    ranks = {r["step"]: (r["exact"], -r["loss"]) for r in records(tmp_path / "run", "val")}
    assert sorted(ranks) == [2, 4] and best == max(ranks, key=ranks.get)


def test_a_step_beyond_the_end_is_not_resumed(run, tmp_path):
    run()
    found = checkpoint(tmp_path / "run")
    torch.save({**found, "step": 10**6}, tmp_path / "run" / "ckpt.pt")
    with pytest.raises(UserError, match="ckpt.pt: its step 1000000 is not between 0 and 2"):
        run(resume=True)


def test_rows_in_another_order_are_not_resumed(run, tmp_path):
    knobs = dict(train="oned#6", task_embed=True, max_len=400)
    run(**knobs)
    found = checkpoint(tmp_path / "run")
    torch.save({**found, "task_ids": found["task_ids"][::-1]}, tmp_path / "run" / "ckpt.pt")
    with pytest.raises(UserError, match="hold other tasks now, or in another order"):
        run(resume=True, **knobs)


@pytest.mark.parametrize("text, message", [
    ("n_layer = 10**5000", "n_layer is an integer of 16610 bits"),
    ("learning_rate = 10**400", "learning_rate is an integer of 1329 bits"),
    ("raise SystemExit(0)", "mine.py: SystemExit: 0"),
    ("out_dir = 'a\\0b'", "out_dir = .* holds a character that no screen shows"),
])
def test_a_config_of_strange_values_is_refused(run, tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        train.main([str(tmp_path / "mine.py")])


def test_a_value_too_deep_to_read_is_refused():
    with pytest.raises(UserError, match="canvas = .* takes int"):
        train.main(["--canvas=" + "(" * 5000])
    assert len(runs.describe_error(UserError("x" * 5000))) < 2000


# ------------------------------------------------------------------------------------------------
# What two readers found


def test_the_old_run_stays_until_the_new_one_has_a_checkpoint(run, tmp_path):
    run(max_steps=4, eval_every=2, keep_every=2)
    with pytest.raises(UserError, match="nothing of this run was saved yet"):
        run(max_steps=40, eval_every=40, overwrite=True, learning_rate=1e30, log_every=5)
    names = {path.name for path in (tmp_path / "run").glob("*.pt")}
    assert names == {"ckpt.pt", "best.pt", "step_000002.pt", "step_000004.pt"}
    run(overwrite=True, val="")
    assert [path.name for path in (tmp_path / "run").glob("*.pt")] == ["ckpt.pt"]


def test_a_run_that_goes_on_with_other_code_says_so(run, tmp_path, monkeypatch, capsys):
    run(eval_every=1)
    run(resume=True, eval_every=2)             # when it is judged may change
    assert "changed since" not in capsys.readouterr().out
    before = runs.code_hash(Config())
    assert before != runs.code_hash(Config(encoding="rope"))
    mine = tmp_path / "model.py"
    mine.write_text((ROOT / "model.py").read_text() + "\n# another line\n")
    monkeypatch.setattr(runs, "CODE", [*runs.CODE, str(mine)])
    assert before != runs.code_hash(Config())
    for how in (dict(init_from=f"{tmp_path}/run/ckpt.pt", out="from_it"), dict(eval_only=True),
                dict(resume=True)):            # which saves it as code of today
        run(**how)
        assert capsys.readouterr().out.count("or its encoding, changed since the checkpoint") == 1


def test_code_that_an_encoding_builds_on_counts_as_its_own(tmp_path, monkeypatch):
    files = [tmp_path / "parent.py", tmp_path / "child.py"]
    monkeypatch.syspath_prepend(tmp_path)
    files[0].write_text("from positions.base import Encoding\nclass Parent(Encoding):\n    pass\n")
    files[1].write_text("from parent import Parent\nclass Child(Parent):\n    pass\n")
    monkeypatch.setattr(runs, "find", lambda name: importlib.import_module("child").Child)
    hashes = [runs.code_hash(Config())]
    for file in files:
        file.write_text(file.read_text() + "# changed\n")
        hashes.append(runs.code_hash(Config()))
    assert len(set(hashes)) == 3


def test_a_parameter_that_nothing_uses_is_named_at_the_first_step(run, tmp_path, monkeypatch):
    """And not when the run is to go on."""
    class Unused(index.find("quadtree")):
        def setup(self, config):
            super().setup(config)
            self.spare = torch.nn.Parameter(torch.zeros(3, 3))
    monkeypatch.setattr(index, "find", lambda name: Unused)
    with pytest.raises(UserError, match=r"encoding\.spare: no gradient after the first backward"):
        run()


def test_a_scalar_in_a_block_trains(run, tmp_path, monkeypatch):
    """A learned gate of its own; Muon turns matrices alone."""
    class Gated(model_file.Block):
        def __init__(self, config):
            super().__init__(config)
            self.share = torch.nn.Parameter(torch.ones(()))

        def forward(self, x, context):
            return self.share * super().forward(x, context)
    monkeypatch.setattr(model_file, "Block", Gated)
    run(max_steps=2)
    trained = checkpoint(tmp_path / "run")["model"]["blocks.0.share"]
    assert trained.item() != 1


def nadam(groups, config):
    return torch.optim.NAdam(groups)


def decoupled_nadam(groups, config):
    return torch.optim.NAdam(groups, decoupled_weight_decay=True)


def test_weight_decay_is_decoupled_or_refused(run, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "nadam", (None, nadam, True))
    monkeypatch.setitem(OPTIMIZERS, "decoupled", (muon, decoupled_nadam, True))
    with pytest.raises(UserError, match="'nadam' adds weight_decay to the gradient: give it decou"):
        run(optimizer="nadam")
    run(optimizer="nadam", weight_decay=0.0)
    run(optimizer="decoupled", overwrite=True)


def adafactor(groups, config):
    return torch.optim.Adafactor(groups)


def sgd(groups, config):
    return torch.optim.SGD(groups, momentum=0.9)


def plain_sgd(groups, config):
    """Keeps no state."""
    return torch.optim.SGD(groups)


class Counting(torch.optim.Optimizer):
    """Keeps a whole number and the squared gradient of each row; its lr is a tensor."""

    def __init__(self, groups):
        super().__init__(groups, dict(lr=torch.tensor(0.0)))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["steps"] = state.get("steps", 0) + 1
                state["rows"] = state.get("rows", 0) + p.grad.square().view(len(p), -1).sum(1)
                scale = state["rows"].view(-1, *[1] * (p.ndim - 1))
                p.sub_(group["lr"] * p.grad / (1 + scale) / state["steps"])


def counting(groups, config):
    return Counting(groups)


@pytest.mark.parametrize("optimizer", [adafactor, sgd, plain_sgd, counting])
def test_an_optimizer_of_ones_own_goes_on_where_it_was(run, tmp_path, monkeypatch, optimizer):
    """Its state may have other shapes than the weights."""
    monkeypatch.setitem(OPTIMIZERS, "mine", (None, optimizer, True))
    knobs = dict(optimizer="mine", max_steps=4, eval_every=2, keep_every=2, learning_rate=1e-3)
    run(out="whole", **knobs)
    with monkeypatch.context() as patch:
        patch.setattr(train, "validate", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(out="cut", **knobs)
    assert checkpoint(tmp_path / "cut")["step"] == 2
    run(out="cut", resume=True, **knobs)
    whole, cut = (checkpoint(tmp_path / name)["training"] for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


@pytest.mark.parametrize("optimizer", [adafactor, sgd])
def test_refine_makes_room_in_an_optimizer_of_ones_own(monkeypatch, optimizer):
    monkeypatch.setitem(OPTIMIZERS, "mine", (None, optimizer, True))
    model = train.GPT(tiny_config())
    mine = Optimizer(model, Config(optimizer="mine"))
    for grow in (False, True):
        if grow:
            refine.add_draft_pair(model, mine)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        before = model.segment.weight.detach().clone()
        mine.step(0.1)
        assert (model.segment.weight != before).all()


def test_a_hangup_that_is_ignored_stops_nothing(tmp_path):
    """nohup: the terminal may close."""
    process = start(tmp_path / "run", preexec_fn=lambda: signal.signal(1, signal.SIG_IGN))
    wait_for(tmp_path / "run" / "ckpt.pt", process)
    process.send_signal(1)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(15)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "interrupted at step" in out


def test_a_worker_that_dies_after_the_loss_did_saves_nothing(run, tmp_path, monkeypatch):
    run(max_steps=2)
    good = (tmp_path / "run" / "ckpt.pt").read_bytes()
    found = runs.Run.__new__(runs.Run)
    found.config, found.step, found.replaces = Config(out_dir=str(tmp_path / "run")), 9, []
    with pytest.raises(UserError, match="step 9: loss nan.*last good checkpoint"):
        found.worker_died(RuntimeError("DataLoader worker (pid 1) is killed"), [float("nan")], 1.0)
    assert (tmp_path / "run" / "ckpt.pt").read_bytes() == good


def test_a_fault_that_is_no_full_disk_is_not_called_one(tmp_path):
    with pytest.raises(RuntimeError, match="device-side assert"), whole_file(tmp_path / "a.pt"):
        raise RuntimeError("CUDA error: device-side assert triggered")
    assert not list(tmp_path.iterdir())


def test_the_hash_of_the_tasks_knows_what_each_is_for():
    a, b = flip_tasks(2)
    moved = a._replace(train=a.train[:-1], test=[a.train[-1], *a.test])

    def data(train, val, test):
        return Data(train, val, test, False, [], frozenset(), frozenset(), [], frozenset(), [], [])
    hashes = {fingerprint(data(*lists)) for lists in (
        ([a], [b], []), ([a], [], [b]), ([], [a], [b]), ([moved], [b], []))}
    assert len(hashes) == 4


def test_solving_never_replaces_other_answers(run, tmp_path):
    run()
    places = {}
    for folder, seed in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        places[folder] = write_tasks(tmp_path / folder / "tasks.json", flip_tasks(1, seed=seed))
    before = contents(tmp_path / "run")
    run(eval_only=True, test=places["one"])    # as --tasks=
    answers = (tmp_path / "run" / "tasks" / "submission.json").read_bytes()
    with pytest.raises(UserError, match="tasks holds the answers to .*one.*--out_dir="):
        run(eval_only=True, tasks=places["two"])
    assert (tmp_path / "run" / "tasks" / "submission.json").read_bytes() == answers
    first = f"{places['one']}#1"
    refine = write_tasks(tmp_path / "refine.json", flip_tasks(1))
    for source, name in ((first, "tasks_1"), (refine, "tasks_refine"),
                         (tmp_path / "one" / "..", re.sub(r"\W", "_", tmp_path.name))):
        if name.startswith("tasks"):
            run(eval_only=True, tasks=source)
        config = runs.solving_folder(Config(eval_only=True, tasks=str(source), out_dir="o"),
                                     dict(test="oned"))
        assert config.out_dir == f"o/{name}"
    assert contents(tmp_path / "run") == before


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("given, message", [
    ("-learning_rate=1", "two dashes"), ("--no_compile", "write --compile=False"),
    ("--compile=0", "takes True or False"), ("config/smok.py", "did you mean config/smoke.py"),
    ("--train=oned+oned#3", "how many"),
])
def test_a_slip_on_the_command_line_gets_its_cure(given, message):
    with pytest.raises(UserError, match=message):
        train.main([given, "--val="])


def test_what_is_meant_is_taken():
    config, _ = load_config(["--compile=false", "--max_steps=1e3", "--out_dir=~/x"])
    assert (config.compile, config.max_steps) == (False, 1000)
    assert config.out_dir == os.path.expanduser("~/x")


def test_an_encoding_that_cannot_be_found_says_where_it_should_be(monkeypatch):
    monkeypatch.setitem(index.ENCODINGS, "mine", "nowhere.Mine")
    monkeypatch.setitem(index.ENCODINGS, "other", "rope.Other")
    for name, place in (("mine", "Mine of encodings/nowhere.py"),
                        ("other", "Other of encodings/rope.py")):
        with pytest.raises(UserError, match=f"encoding '{name}' should be the class {place}"):
            index.find(name)


def test_an_encoding_says_what_it_lacks(monkeypatch):
    class NoDim(Encoding):
        def features(self, coords):
            return coords[..., 2:].float()

    class Whole(NoDim):
        def setup(self, config):
            self.dim = 2

        def features(self, coords):
            return coords[..., 2:]

    class Short(Whole):
        def features(self, coords):
            return coords[..., 2:3].float()

    class Slip(Encoding):
        def setup(self, config):
            self.dim = 2

        def feature(self, coords):
            return coords[..., 2:].float()

        def angles(self, coords):
            return None

    class Endless(Whole):
        def features(self, coords):
            return 1 / coords[..., 2:]

    class Corner(Whole):
        def features(self, coords):
            return 1 / coords[..., 2:].sum(-1, keepdim=True).expand(*coords.shape[:-1], 2)

    class Double(Whole):
        def features(self, coords):
            return coords[..., 2:].double()

    class Silent(Whole):
        def features(self, coords):
            coords[..., 2:].float()

    class Mute(Encoding):
        def vector(self, coords):
            pass

    class Misspelt(Encoding):
        def angle(self, coords):
            return coords[..., None, :].float()

    class Narrow(Encoding):
        def vector(self, coords):
            return coords.float()

    class Wide(Encoding):
        def angles(self, coords):
            return coords[..., None, :3].float()

    class Heads(Encoding):
        def angles(self, coords):
            return torch.zeros(*coords.shape[:-1], 3, 8)
    for kind, message in ((NoDim, "how many features.*self.dim"),
                          (Whole, r"float32 of shape \(4097, 2\).*int64"),
                          (Short, r"\(4097, 2\).* of \(4097, 1\)"),
                          (Slip, "its method `features` returns nothing"),
                          (Endless, "features are not finite everywhere on a canvas of"),
                          (Corner, "features are not finite everywhere on a canvas of"),
                          (Double, "features should be torch.float32 .* are torch.float64"),
                          (Silent, "its method `features` returns nothing"),
                          (Mute, "its method `vector` returns nothing"),
                          (Misspelt, "it needs a method `features`, `vector` or `angles`"),
                          (Narrow, r"vector should be .*\(4097, 32\).* of \(4097, 4\)"),
                          (Heads, r"angles should be .*\(4097, 2, 8\).* of \(4097, 3, 8\)"),
                          (Wide, r"angles should be .*\(4097, 1, 8\).* of \(4097, 1, 3\)")):
        real = index.find
        with monkeypatch.context() as patch:
            patch.setattr(index, "find", lambda name, kind=kind: kind if name == "mine"
                          else real(name))
            for name in ("mine", "mine+none"):
                with pytest.raises(UserError, match=f"encoding {kind.__name__}: .*{message}"):
                    train.GPT(tiny_config(encoding=name))
