"""results/arc_gen.py: what it keeps of what generators draw, and what it never asks for."""
import ast
import json
import shlex
import subprocess
import sys

import pytest

from conftest import ROOT

CLONE = '''
"""A clone of ARC-GEN in small: {task id: (generator, validator)}."""
import random


def draw():
    row = [random.randint(0, 9) for _ in range(4)]
    return {"input": [row], "output": [row[::-1]]}


def same():
    return {"input": [[1]], "output": [[1]]}


def no_grid():
    grid = random.choice([[[1, 2], [3]], [[1, 12]], [[1.5]], [], [[-1]], [[1] * 31], [1], None])
    return draw() if random.random() < 0.3 else {"input": grid, "output": [[1]]}


def slow():
    while random.random() < 0.2:
        for _ in range(10**9):
            pass
    return draw()


def broken():
    if random.random() < 0.5:
        raise ValueError("no layout")
    return draw()


def task_list():
    drawn = dict(good=draw, same=same, no_grid=no_grid, slow=slow, broken=broken, asked=draw)
    return {name: (generator, None) for name, generator in drawn.items()}
'''


@pytest.fixture
def make(tmp_path):
    """Returns a function that runs the script. train, exclude: {task id: row of its one pair}."""
    clone = tmp_path / "ARC-GEN"
    clone.mkdir()
    (clone / "task_list.py").write_text(CLONE)

    def run(train, exclude, *args, folder=clone):
        command = [sys.executable, "results/arc_gen.py", str(folder)]
        for option, rows in (("train", train), ("exclude", exclude)):
            tasks = {name: {"train": [{"input": [row], "output": [row[::-1]]}], "test": []}
                     for name, row in rows.items()}
            path = tmp_path / f"{option}.json"
            path.write_text(json.dumps(tasks))
            command.append(f"--{option}={path}")
        command += [f"--out={tmp_path}/made.json", "--seconds=1", *args]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return run


def test_pairs_are_new_grids_that_look_like_none_of_the_excluded(make, tmp_path):
    train = dict.fromkeys(["good", "no_grid", "slow", "broken", "asked", "unknown"], [1, 2])
    # turned or recolored, the second pair is any row of four different colors
    result = make(train, {"asked": [5, 6], "other": [1, 2, 3, 4]}, "--pairs=5")
    assert not result.returncode, result.stderr
    made = json.loads((tmp_path / "made.json").read_text())
    assert list(made) == ["broken", "good", "no_grid", "slow"]
    for task in made.values():
        rows = [tuple(pair["input"][0]) for pair in task["train"]]
        assert task["test"] == [] and len(set(rows)) == len(rows) == 5
        for row, pair in zip(rows, task["train"]):
            assert pair["input"] != pair["output"] == [list(row[::-1])]
            assert len(set(row)) < 4
    first = (tmp_path / "made.json").read_bytes()
    make(train, {"asked": [5, 6], "other": [1, 2, 3, 4]}, "--pairs=5")
    assert (tmp_path / "made.json").read_bytes() == first
    make(train, {"asked": [5, 6], "other": [1, 2, 3, 4]}, "--pairs=5", "--seed=43")
    assert (tmp_path / "made.json").read_bytes() != first


def test_what_cannot_be_made_is_said(make, tmp_path):
    failed = make({"same": [1, 2]}, {"asked": [5, 6]}, "--pairs=2")
    assert failed.returncode and "error: same: 200 attempts gave 0 pairs" in failed.stderr
    failed = make({"good": [1, 2]}, {"asked": [5, 6]}, folder=tmp_path)
    assert failed.returncode and "no clone of ARC-GEN" in failed.stderr
    assert not (tmp_path / "made.json").exists()
    assert "python results/arc_gen.py ARC-GEN" in make({}, {}, "--unknown=1").stderr


def test_the_command_in_the_docstring_is_a_command(make, tmp_path, monkeypatch):
    """As a shell reads it, on files of these names."""
    text = ast.get_docstring(ast.parse((ROOT / "results" / "arc_gen.py").read_text()))
    (line,) = [line for line in text.replace("\\\n", " ").splitlines() if "python" in line]
    program, script, folder, *options = shlex.split(line)
    assert (program, script, folder) == ("python", "results/arc_gen.py", "ARC-GEN")
    assert [option.partition("=")[0] for option in options] == ["--train", "--exclude"]
    assert options[1].count("+") == 2


def test_an_excluded_pair_without_an_output_excludes_its_input(make, tmp_path):
    """Kaggle's challenges have no outputs: four different colors are the form of 1 2 3 4."""
    assert not make({"good": [1, 2]}, {"other": [1, 2, 3, 4]}, "--pairs=5").returncode
    with_output = (tmp_path / "made.json").read_bytes()
    raw = {"other": {"train": [], "test": [{"input": [[1, 2, 3, 4]]}]}}
    (tmp_path / "kaggle.json").write_text(json.dumps(raw))
    # the last --exclude counts
    result = make({"good": [1, 2]}, {}, "--pairs=5", f"--exclude={tmp_path}/kaggle.json")
    assert not result.returncode, result.stderr
    assert (tmp_path / "made.json").read_bytes() == with_output
