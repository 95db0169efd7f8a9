"""tests/strain.py can fail: a broken subject is reported as not good, and a sound one as good."""
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest
import torch

import train
from engine.optim import Optimizer
from tests import strain
from tests.strain import Case, Done, Trial

ARM = "muon_schedulefree"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the undisturbed run of one arm."""
    root = tmp_path_factory.mktemp("strain")
    folder = root / "reference" / ARM
    done = strain.call(*strain.call_of(root, ARM, folder), folder)
    assert done.code == 0 and not done.err
    (folder / "life").write_text("[0.5, 0.5, 10]")
    return root


@pytest.fixture
def case(root):
    """case(trial, number) is a Case with an empty folder of its own."""
    made = []

    def case(trial, number=0, count=100):
        made.append(Case(trial, number, count, 1, root))
        made[-1].folder.mkdir()
        return made[-1]
    yield case
    for one in made:
        shutil.rmtree(one.folder, ignore_errors=True)


def test_every_trial_that_was_asked_for_is_there_in_its_number():
    least = dict(kill=40, term=40, interrupt=40, disk=10, two=5, cut=20, bits=50, content=60,
                 tasks=60, knobs=60, json=12)
    assert {name: trial.cases >= least[name] for name, trial in strain.TRIALS.items()} == {
        name: True for name in least}
    assert all(0 < trial.short <= trial.cases for trial in strain.TRIALS.values())
    optimizers = {knobs.get("optimizer", "muon_schedulefree") for _, knobs in strain.ARMS.values()}
    assert optimizers == {"muon_schedulefree", "schedulefree", "muon", "adamw"}
    assert {"workers", "task_embed", "refine"} <= strain.ARMS.keys()


# ------------------------------------------------------------------------------------------------
# What is wrong is seen


@pytest.mark.parametrize("done, words, fault", [
    (Done(1, "", "error: no file\n"), ["file"], ""),
    (Done(0, "", ""), [], "exit code 0"),
    (Done(2, "", "error: no file\n"), [], "exit code 2"),
    (Done(None, "", ""), [], "no end"),
    (Done(1, "", ""), [], "not one line"),
    (Done(1, "", "Traceback (most recent call last):\nValueError\n"), [], "not one line"),
    (Done(1, "", "error: one\nerror: two\n"), [], "not one line"),
    (Done(1, "", "error: \x1b[31mred\n"), [], "terminal"),
    (Done(1, "", "error: no file\n"), ["tasks.json"], "tasks.json"),
])
def test_what_is_not_one_line_is_seen(done, words, fault):
    found = strain.not_one_line(done, *words)
    assert fault in found and bool(fault) == bool(found)


def test_what_changes_on_disk_is_seen(tmp_path):
    (tmp_path / "a").write_text("1")
    before = strain.contents(tmp_path)
    assert strain.changed(before, tmp_path) == ""
    (tmp_path / "b").mkdir()
    assert strain.changed(before, tmp_path).endswith(": b")
    (tmp_path / "a").write_text("2")
    assert strain.changed(before, tmp_path).endswith(": a, b")


def edit_weight(folder):
    path = folder / "step_000030.pt"
    found = torch.load(path, weights_only=True)
    found["model"]["head.weight"][0, 0] += 1e-6
    torch.save(found, path)


def drop_record(folder):
    path = folder / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def repeat_validation(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines + [line for line in lines if '"val"' in line]))


def leave_a_file(folder):
    (folder / "best.pt.tmp").write_text("")


def edit_submission(folder):
    path = folder / "submission.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "more": []}))


@pytest.mark.parametrize("change, fault", [
    (lambda folder: None, ""), (edit_weight, "step_000030.pt: another model"),
    (drop_record, "kind train"), (repeat_validation, "val at steps"), (leave_a_file, "is left"),
    (edit_submission, "another submission"), (lambda folder: (folder / "best.pt").unlink(), "best"),
])
def test_how_a_run_differs_is_seen(root, tmp_path, change, fault):
    whole = root / "reference" / ARM
    parts = shutil.copytree(whole, tmp_path / "parts")
    change(parts)
    found = strain.differences(whole, parts)
    assert fault in found and bool(fault) == bool(found)


# ------------------------------------------------------------------------------------------------
# Broken subjects: what is patched here is patched in the runs that `call` forks


@pytest.mark.parametrize("broken", [False, True])
def test_a_resume_that_forgets_the_optimizer_is_not_good(case, monkeypatch, broken):
    this, steps, real = case("kill"), [], Optimizer.step
    folder = this.folder / "run"

    def die(self, lr):
        steps.append(1)
        if len(steps) == 30:
            os._exit(9)
        real(self, lr)
    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", die)
        done = strain.call(*strain.call_of(this.root, ARM, folder), this.folder / "talk")
    assert done.code == 9 and (folder / "ckpt.pt").exists()
    if broken:
        monkeypatch.setattr(Optimizer, "restore", lambda self, found: self.set_train_mode())
    fault = strain.finish(this, ARM, folder)
    assert ("another" in fault) if broken else fault == ""


@pytest.mark.parametrize("broken", [False, True])
def test_a_checksum_that_nobody_looks_at_is_not_good(case, monkeypatch, broken):
    # how it is refused is a matter of other trials
    monkeypatch.setattr(strain, "refused_loads", lambda case, damage, **arm: "")
    if broken:
        monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: None)
    faults = [strain.bit_trial(case("bits", number))[1] for number in range(0, 24, 3)]
    assert any(faults) == broken


@pytest.mark.parametrize("name, fault", [("truncated", ""), ("good", "exit code 0")])
def test_a_bad_task_file_that_is_taken_is_not_good(case, monkeypatch, name, fault):
    bad = {"truncated": strain.BAD_FILES["truncated"], "good": lambda rng, tasks: None}
    monkeypatch.setattr(strain, "BAD_FILES", {name: bad[name]})
    what, found, tried = strain.task_trial(case("tasks"))
    assert what.startswith(name) and tried == 1
    assert fault in found and bool(fault) == bool(found)


def test_a_traceback_is_not_good(case, monkeypatch):
    def load_data(config):
        raise ValueError("broken")
    monkeypatch.setattr(train, "load_data", load_data)
    assert strain.task_trial(case("tasks"))[1].startswith("not one line: ")


def test_a_run_that_does_not_know_signals_is_not_good(case, monkeypatch):
    """Python's own answer to Ctrl-C is a traceback."""
    def start(script, args, folder):
        folder.mkdir()
        with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
            code = "import sys, time; time.sleep(60)"
            return subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=err,
                                    start_new_session=True)
    monkeypatch.setattr(strain, "start", start)
    monkeypatch.setattr(strain, "finish", lambda case, arm, folder: "")
    fault = strain.signal_trial(signal.SIGINT)(case("interrupt"))[1]
    assert fault.startswith("more than a line") and "KeyboardInterrupt" in fault


@pytest.mark.parametrize("function, code", [
    (lambda case: ("nothing", "", 1), 0), (lambda case: ("something", "broken", 1), 1),
    (lambda case: 1 / 0, 1),
])
def test_the_command_fails_where_something_was_not_good(monkeypatch, capsys, function, code):
    monkeypatch.setattr(strain, "ARMS", {})
    monkeypatch.setattr(strain, "TRIALS", {"odd": Trial(function, 3, 2)})
    assert strain.main(["--short", "--seed=4"]) == code
    out = capsys.readouterr().out
    assert f"| odd | 2 | {0 if code else 2} |" in out
    assert ("python -m tests.strain --seed=4 odd:1 --short" in out) == bool(code)
    assert strain.main(["odd:2"]) == code and "odd:2  " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no trial 'even'"):
        strain.main(["even"])
