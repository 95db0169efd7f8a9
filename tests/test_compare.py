"""results/compare.py and results/curves.py; and that an encoding which no list knows is at home."""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from config import UserError, load_config
from conftest import ROOT, TINY, flags
from engine.checkpoints import load_checkpoint

RESULTS = ROOT / "results"


@pytest.fixture
def script(monkeypatch):
    """script("compare") is a script of results/ as a module. Nothing runs yet."""
    monkeypatch.syspath_prepend(str(RESULTS))
    monkeypatch.chdir(ROOT)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"results_{name}", RESULTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return load


@pytest.fixture
def compare(script, monkeypatch):
    """compare(argument, ...) runs compare.py without the training; compare.runs has the configs.

    The lower the rate, the better. A run of an encoding in compare.cut is cut off.
    """
    module = script("compare")

    def run_script(command, folder, env):
        config, given = load_config(command[1:])
        call.runs.append(config)
        scores = dict(exact=1 - config.learning_rate, cells=0.5, loss=0.25, exact_1d=0.5)
        records = [dict(kind="val", step=config.max_steps, **scores)]
        records += [dict(kind="test", step=config.max_steps, **scores)] * bool(config.test)
        folder.mkdir(parents=True, exist_ok=True)
        # the canvas is the one that was chosen, as in write_config
        facts = {**vars(config), "given": given, "canvas": 16, "versions": {"code": call.code}}
        (folder / "config.json").write_text(json.dumps(facts))
        if config.encoding in call.cut:
            (folder / "metrics.jsonl").unlink(missing_ok=True)
            if not (folder / "ckpt.pt").exists():      # else cut off before it saved
                (folder / "ckpt.pt").write_text(call.code)
            raise SystemExit("cut off")
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        return records

    def call(*args):
        call.runs = []
        module.main(["--max_steps=600", "--jobs=1", *args])
        return [(c.encoding, c.learning_rate, c.seed, c.max_steps, bool(c.test))
                for c in call.runs]
    call.cut, call.module, call.code = set(), module, "1"
    monkeypatch.setattr(module, "code_hash", lambda config: call.code)
    monkeypatch.setattr(module, "load_checkpoint",
                        lambda path: dict(versions=dict(code=path.read_text())))
    monkeypatch.setattr(module, "run_script", run_script)
    monkeypatch.setattr(module, "figure", lambda *args: None)
    monkeypatch.setitem(module.ARMS, "encodings", ("encoding", ["rope", "none"], [0.25, 0.125]))
    return call


# ------------------------------------------------------------------------------------------------
# compare.py without the training


def test_every_arm_gets_every_rate_and_the_best_one_gets_every_seed(compare, tmp_path, capsys):
    (tmp_path / "minutes.json").write_text(json.dumps(dict(ms=dict(none=100))))
    runs = compare("encodings", f"--out={tmp_path}")
    short = {(arm, rate, 0, 200, False) for arm in ("rope", "none") for rate in (0.25, 0.125)}
    long = {(arm, 0.125, seed, 600, True) for arm in ("rope", "none") for seed in (1, 2, 3)}
    assert set(runs) == short | long and len(runs) == len(short | long)
    found = json.loads((tmp_path / "encodings.json").read_text())
    assert found["steps"] == 600 and found["arms"]["rope"]["rate"] == 0.125
    assert found["arms"]["none"]["rates"] == {
        "0.25": dict(exact=0.75, loss=0.25), "0.125": dict(exact=0.875, loss=0.25)}
    written = (tmp_path / "encodings.md").read_text()
    printed = capsys.readouterr().out
    assert written in printed
    half = "50.0% (50.0% .. 50.0%)"
    scores = f"0.125 | 87.5% (87.5% .. 87.5%) | {half} | - | {half} | 0.250 (0.250 .. 0.250)"
    assert f"| rope | angles | {scores} | not timed |" in written
    assert f"| none | 0 | {scores} | 1.0 |" in written
    # a line for each run, in the order in which they ended
    lines = [line for line in printed.splitlines() if " runs, ETA " in line]
    assert len(lines) == 10
    assert re.fullmatch(r"rope, seed 0, learning rate 0\.25: exact 75\.0%, \d+\.\d minutes; 1 of "
                        r"10 runs, ETA \d+:\d\d", lines[0])
    assert re.fullmatch(r"none, seed 3, learning rate 0\.125: exact 87\.5%, .*; 10 of 10 runs, ETA "
                        r"0:00", lines[-1])


def test_arms_seeds_and_a_rate_can_be_named(compare, tmp_path):
    runs = compare("encodings", f"--out={tmp_path}", "--arms=quadtree,onehot+rope3d", "--seeds=4,7",
                   "--learning_rate=0.5")
    arms = "quadtree", "onehot+rope3d"
    assert runs == [(arm, 0.5, seed, 600, True) for arm in arms for seed in (4, 7)]
    found = json.loads((tmp_path / "encodings.json").read_text())
    assert list(found["arms"]) == list(arms) and found["seeds"] == [4, 7]
    assert found["arms"]["quadtree"]["rate"] == 0.5


def test_finished_runs_are_used_again_and_a_run_that_was_cut_off_goes_on(compare, tmp_path, capsys):
    given = "encodings", f"--out={tmp_path}", "--seeds=1,2"
    compare.cut = {"none"}
    with pytest.raises(SystemExit, match="cut off"):
        compare(*given)
    compare.cut = set()
    again = compare(*given)
    # rope's short runs are there; nothing was started after the failure
    assert ("rope", 0.25, 0, 200, False) not in again and ("none", 0.25, 0, 200, False) in again
    assert [c.resume for c in compare.runs if (c.encoding, c.max_steps) == ("none", 200)] == [
        True, False]
    text = (tmp_path / "encodings.md").read_text()
    capsys.readouterr()
    assert compare(*given) == []
    assert (tmp_path / "encodings.md").read_text() == text
    assert capsys.readouterr().out.count("reused (--overwrite runs it again); ") == 8
    # one more seed is two more runs
    assert {run[2] for run in compare(*given[:2], "--seeds=1,2,3")} == {3}
    assert len(compare(*given, "--overwrite")) == 8
    assert all(c.overwrite and not c.resume for c in compare.runs)


def test_a_run_of_other_code_is_run_again(compare, tmp_path, capsys, monkeypatch):
    """Say, of an encoding that was changed since: finished, or cut off."""
    given = "encodings", f"--out={tmp_path}", "--seeds=1"
    compare(*given)
    compare.code = "2"
    compare.cut = {"none"}
    with pytest.raises(SystemExit, match="cut off"):
        compare(*given)
    assert all(c.overwrite for c in compare.runs)
    compare.code = "2b"                        # cut off again: the checkpoint is that of "2"
    with pytest.raises(SystemExit, match="cut off"):
        compare(*given)
    with pytest.raises(SystemExit, match="cut off"):
        compare(*given)
    assert all(c.overwrite for c in compare.runs)
    with monkeypatch.context() as patch:       # it has other sizes now, say
        patch.setattr(compare.module, "load_checkpoint", load_checkpoint)
        with pytest.raises(SystemExit, match="cut off"):
            compare(*given)
    assert all(c.overwrite for c in compare.runs)
    assert "not a readable checkpoint" in capsys.readouterr().out
    compare.code, compare.cut = "3", set()
    assert len(compare(*given)) == 6 and all(c.overwrite for c in compare.runs)
    assert "its code changed since" in capsys.readouterr().out
    assert compare(*given) == []


def test_a_run_with_other_knobs_is_neither_used_nor_replaced(compare, tmp_path):
    compare("encodings", f"--out={tmp_path}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as error:
        compare("encodings", f"--out={tmp_path}", "--n_layer=2")
    assert "holds another run: n_layer was 4 and is 2. Name another folder" in str(error.value)
    assert compare.runs == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_two_tables_share_the_run_that_stands_in_both(compare, tmp_path, monkeypatch, capsys):
    """config/quadtree.py with its own optimizer."""
    monkeypatch.setitem(compare.module.ARMS, "encodings", ("encoding", ["quadtree"], [0.5]))
    monkeypatch.setitem(compare.module.ARMS, "optimizers",
                        ("optimizer", ["muon", "muon_schedulefree"], [0.5]))
    compare("encodings", "optimizers", f"--out={tmp_path}", "--seeds=1")
    assert sorted(c.optimizer for c in compare.runs) == ["muon", "muon_schedulefree"]
    assert "2 of 2 runs, ETA 0:00" in capsys.readouterr().out
    assert (tmp_path / "optimizers.md").exists()


def test_the_published_tables_stay_unless_they_are_named(compare, tmp_path, monkeypatch):
    module = compare.module
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert module.OWN["out"] == str(ROOT / "out" / "compare")
    runs = module.Runner(module.HERE, 1, []).folder
    assert runs == tmp_path / "out" / "compare"       # not in results/


@pytest.mark.parametrize("arguments, message", [
    ("encodings --arms=quadtre", "no encoding 'quadtre'; did you mean quadtree"),
    ("encodings --arms=rope+rope2d", "only one of its parts may be rotary"),
    ("optimizers --arms=sgd", "no optimizer 'sgd'; there are schedulefree, muon"),
    ("encodings optimizers --arms=none", "belongs to one table"),
    ("minutes --arms=none", "belongs to one table"),
    ("encodings --seeds=1,x", "--seeds=1,x: whole numbers from 0 on"),
    ("encodings --seeds=", "--seeds=: whole numbers from 0 on"),
    ("encodings --jobs=0", "--jobs=0: whole numbers from 1 on"),
    ("encodings --seed=4", "--seed is set for each run here"),
    ("encodings --encoding=rope", "--encoding is set for each run here"),
    ("encodings --n_leyer=3", "no knob 'n_leyer'; did you mean n_layer"),
    ("encodigns", "no table 'encodigns'; there are optimizers, encodings and minutes"),
])
def test_what_cannot_be_compared_is_refused_in_one_line(compare, tmp_path, arguments, message):
    with pytest.raises(UserError) as error:
        compare(*arguments.split(), f"--out={tmp_path / 'new'}")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert compare.runs == [] and not (tmp_path / "new").exists()


def test_the_command_says_it_in_one_line():
    command = [sys.executable, "results/compare.py", "encodings", "--arms=quadtre"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: no encoding 'quadtre'") and done.stderr.count("\n") == 1


def test_the_row_of_table2d_is_what_was_measured(script):
    found = json.loads((RESULTS / "encodings_table2d.json").read_text())
    page = (RESULTS / "encodings_table2d.md").read_text()
    rows = script("compare").table("encodings", found["arms"], found["steps"], {})
    assert page.startswith(rows) and found["seeds"] == [1, 2, 3]
    exact = [record["exact"] for record in found["arms"]["table2d"]["test"]]
    assert f" {100 * sum(exact) / 3:.1f} % exact of 450" in (ROOT / "config/table2d.py").read_text()
    (control,) = found["control"]["quadtree"]["test"]
    draft = json.loads((RESULTS / "refine" / "draft.json").read_text())
    assert f"{control['exact']:.1%}, as recorded earlier" in page.replace("\n", " ")
    assert control["exact"] == draft["1"]["single_before"]
    assert list(found["arms"]["table2d"]["rates"]) == ["0.003", "0.01", "0.03"]


# ------------------------------------------------------------------------------------------------
# curves.py


def write_run(folder, seed, exact, **knobs):
    """A folder as train.py leaves it; loss is 1 - exact."""
    config, given = load_config(flags(seed=seed, out_dir=folder, **knobs))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**vars(config), "given": given}))
    records = [dict(kind="val", step=100 * i, exact=e, loss=1 - e) for i, e in enumerate(exact, 1)]
    records.append(dict(kind="test", step=100 * len(exact), exact=exact[-1], pass2=0.75))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return str(folder)


def test_curves_are_means_and_ranges_over_seeds(script, tmp_path, monkeypatch, capsys):
    curves, drawn = script("curves"), {}
    monkeypatch.setattr(curves, "draw", lambda groups, path: drawn.update(groups))
    a = write_run(tmp_path / "a", 1, [0.25, 0.5])
    b = write_run(tmp_path / "b", 2, [0.35, 0.75, 0.875])              # went further
    other = write_run(tmp_path / "other", 1, [0.0], encoding="rope")
    alone = tmp_path / "alone.jsonl"
    alone.write_text((tmp_path / "a" / "metrics.jsonl").read_text())
    with open(tmp_path / "b" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "val", "ste\n[1]\n')
    curves.main([a, other, b, str(alone)])
    printed = capsys.readouterr().out
    assert list(drawn) == [f"{a}, runs: 2", f"{other}, runs: 1", f"{alone}, runs: 1"]
    assert f"{b}/metrics.jsonl: damaged lines left out: 2" in printed
    both = printed.split(f"{a}, runs: 2")[1].split(f"{other}, runs: 1")[0]
    for line in ("| 100 | 2 | 30.0% (25.0% .. 35.0%) | 0.700 (0.650 .. 0.750) |",
                 "| 200 | 2 | 62.5% (50.0% .. 75.0%) | 0.375 (0.250 .. 0.500) |",
                 "| 300 | 1 | 87.5% (87.5% .. 87.5%) | 0.125 (0.125 .. 0.125) |",
                 "- test at step 200, pass2: 75.0% (75.0% .. 75.0%)",
                 "- test at step 300, exact: 87.5% (87.5% .. 87.5%)"):
        assert line in both.splitlines()


def test_without_matplotlib_curves_are_printed_and_it_is_said_what_to_install(
        script, tmp_path, monkeypatch, capsys):
    run, figure = write_run(tmp_path / "a", 1, [0.25, 0.5]), tmp_path / "curves.svg"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        script("curves").main([run, f"--out={figure}"])
    assert "| 200 | 1 | 50.0%" in capsys.readouterr().out and not figure.exists()


def test_curves_are_drawn(script, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib, which is not installed")
    run, figure = write_run(tmp_path / "a", 1, [0.25, 0.5]), tmp_path / "curves.svg"
    script("curves").main([run, f"--out={figure}"])
    assert figure.read_text().count("exact on val") == 1


def test_curves_name_a_run_that_is_not_there(script, tmp_path):
    with pytest.raises(UserError, match="nothing.*no such file"):
        script("curves").main([str(tmp_path / "nothing")])


# ------------------------------------------------------------------------------------------------
# README's recipe: a file, a line, a comparison, the tests

MINE = '''"""Which diagonal, from a table of half the width; and which quarter, from a small MLP."""
import torch
from torch import nn

from .base import Encoding


class Mine(Encoding):
    def setup(self, config):
        half = config.n_embd // 2
        self.diagonals = nn.Embedding(2 * config.canvas, half)
        self.mlp = nn.Sequential(nn.Linear(2, 16), nn.GELU(),
                                 nn.Linear(16, config.n_embd - half))

    def vector(self, coords):
        cell = coords[..., 2:]
        quarter = self.mlp((cell // 2).to(self.diagonals.weight.dtype))
        return torch.cat([self.diagonals(cell.sum(-1)), quarter], -1)
'''


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project with an encoding that no list knows."""
    if not shutil.which("git"):
        pytest.skip("tests/test_house.py asks git which files belong to the project")
    folder = tmp_path_factory.mktemp("copy") / "project"
    ignored = shutil.ignore_patterns("__pycache__", "out", ".git", ".pytest_cache", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=ignored)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (folder / "encodings" / "mine.py").write_text(MINE)
    index = folder / "encodings" / "index.py"
    text = index.read_text()
    assert text.count("\n}\n") == 1
    index.write_text(text.replace("\n}\n", '\n    "mine": "mine.Mine",\n}\n'))     # one line
    return folder


def python(folder, *arguments):
    """Runs Python in a process of its own. Returns what it printed; it must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=folder, text=True,
                          capture_output=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_new_encoding_is_compared_with_others(copy):
    tiny = flags(**{**TINY, "max_steps": 4, "learning_rate": 0.01})
    printed = python(copy, "results/compare.py", "encodings", "--arms=mine,quadtree,mine+rope3d",
                     "--seeds=1", f"--out={copy.parent / 'compared'}", "--jobs=2", *tiny)
    assert printed.count(" of 3 runs, ETA ") == 3
    written = (copy.parent / "compared" / "encodings.md").read_text()
    rows = {line.split(" | ")[0]: line for line in written.splitlines()[2:]}
    assert set(rows) == {"| mine", "| quadtree", "| mine+rope3d"}
    assert rows["| mine"].startswith("| mine | table | 0.01 | ")
    # nothing that is published has changed
    published = [path for path in RESULTS.rglob("*") if path.suffix in (".json", ".md")]
    assert len(published) > 20
    for path in published:
        assert (copy / path.relative_to(ROOT)).read_bytes() == path.read_bytes(), path


def test_the_tests_pass_with_a_new_encoding(copy):
    """Those that go over the encodings, and those of the house that run nothing."""
    tests = [copy / "tests" / f"test_{name}.py" for name in ("encodings", "house", "model")]
    printed = python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k",
                     "encoding or house and not runs and not works or parameters or beginning")
    count = re.search(r"(\d+) passed", printed)
    assert int(count[1]) > 100 and "skipped" not in printed
