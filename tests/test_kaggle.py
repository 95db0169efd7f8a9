"""results/kaggle.md and notebooks/kaggle.ipynb work on a made-up machine of Kaggle's form."""
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from arc.sources import check_grid
from conftest import ROOT, TINY, flags, flip_tasks, make_task, write_tasks

PAGE = (ROOT / "results" / "kaggle.md").read_text(encoding="utf-8")
ARC1 = (ROOT / "results" / "arc1.md").read_text(encoding="utf-8")
NOTEBOOK = json.loads((ROOT / "notebooks" / "kaggle.ipynb").read_text(encoding="utf-8"))
SHRUNK = flags(**TINY, rerank_views=2)
PARTS = ("training", "evaluation", "test")


def write_competition(folder):
    """Writes the competition's files; test repeats the evaluation tasks, without answers."""
    folder.mkdir(parents=True)
    training = [task._replace(id=f"t{task.id}") for task in flip_tasks(4, seed=1)]
    evaluation = [*flip_tasks(3), make_task("two", "1 > 2; 11 > 22", "111 > 222; 1 1 > 2 2")]
    for part, tasks in zip(PARTS, (training, evaluation, evaluation)):
        unanswered = [task._replace(test=[(a, None) for a, _ in task.test]) for task in tasks]
        write_tasks(folder / f"arc-agi_{part}_challenges.json", unanswered)
        if part != "test":
            answers = {task.id: [b.tolist() for _, b in task.test] for task in tasks}
            (folder / f"arc-agi_{part}_solutions.json").write_text(json.dumps(answers))
    zero = {"attempt_1": [[0, 0], [0, 0]], "attempt_2": [[0, 0], [0, 0]]}
    sample = {task.id: [zero] * len(task.test) for task in evaluation}
    (folder / "sample_submission.json").write_text(json.dumps(sample))


def write_wheel(folder):
    """Writes a wheel that pip installs, of the name and version that requirements.txt pins."""
    (pin,) = re.findall(r"^schedulefree==(.*)$", (ROOT / "requirements.txt").read_text(), re.M)
    info = f"schedulefree-{pin}.dist-info"
    folder.mkdir()
    with zipfile.ZipFile(folder / f"schedulefree-{pin}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("schedulefree/__init__.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: schedulefree\n"
                                           f"Version: {pin}\nRequires-Dist: torch\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\n"
                                        "Root-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """A folder in the place of /kaggle. pip installs into tmp_path/site, from a made-up wheel."""
    pytest.importorskip("pip")
    machine = tmp_path / "kaggle"
    (machine / "working").mkdir(parents=True)
    write_competition(machine / "input" / "arc-prize-2025")
    code = machine / "input" / "nanoarc"
    shutil.copytree(ROOT, code, ignore=shutil.ignore_patterns(".*", "out", "tests", "__pycache__"))
    write_wheel(tmp_path / "registry")
    for name, value in dict(PIP_TARGET=tmp_path / "site", PIP_DISABLE_PIP_VERSION_CHECK=1,
                            PYTHONDONTWRITEBYTECODE=1, OMP_NUM_THREADS=1).items():
        monkeypatch.setenv(name, str(value))
    return machine


def files_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def check_submission(machine):
    """Every id, every test input, two grids, in the order of the challenges."""
    path = machine / "input" / "arc-prize-2025" / "arc-agi_test_challenges.json"
    challenges = json.loads(path.read_text())
    submission = json.loads((machine / "working" / "submission.json").read_text())
    assert list(submission) == list(challenges) == ["flip0", "flip1", "flip2", "two"]
    for name, task in challenges.items():
        assert len(submission[name]) == len(task["test"]) == (2 if name == "two" else 1)
        for attempts in submission[name]:
            assert list(attempts) == ["attempt_1", "attempt_2"]
            for grid in attempts.values():
                check_grid(grid, name)
    log = (machine / "working" / "run" / "log.txt").read_text()
    assert "train: 4 tasks" in log and "leak guard: 0 dropped" in log
    assert "test:  4 tasks, 5 queries, 0 with known answers" in log


# ------------------------------------------------------------------------------------------------
# The page


def command_blocks():
    """Returns the page's blocks of commands, each as one text."""
    return PAGE.split("```")[1::2]


def write_program(path, command):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)


def shell(script, cwd, tools):
    """Runs a script in bash with our Python as `python` and `pip`. Returns what it prints."""
    write_program(tools / "python", sys.executable)
    write_program(tools / "pip", f"{sys.executable} -m pip")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=cwd, text=True,
                          capture_output=True, env={**os.environ, "PATH": f"{tools}:/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_of_the_page_make_a_submission(kaggle, tmp_path, monkeypatch):
    before, inside = command_blocks()
    code, tools = kaggle / "input" / "nanoarc", tmp_path / "tools"
    with monkeypatch.context() as patch:       # the machine with internet
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(tmp_path / "registry"))
        patch.delenv("PIP_TARGET")
        shell(before, code, tools)
    assert [path.suffix for path in (code / "wheels").iterdir()] == [".whl"]

    training = re.compile(r"^python train\.py (?:.*\\\n)*.*$", re.M)
    shrunk, count = training.subn(lambda line: " ".join([line[0], *SHRUNK]), inside)
    assert count == 1
    attached = files_below(kaggle / "input")
    printed = shell(shrunk.replace("/kaggle/", f"{kaggle}/"), tmp_path, tools)
    assert files_below(kaggle / "input") == attached           # /kaggle/input cannot be written
    assert (tmp_path / "site" / "schedulefree" / "__init__.py").exists()
    check_submission(kaggle)
    assert re.search(r"without an attempt, or \[\[0\]\]: \d of 5 queries\nnot asked for: 0 ids",
                     printed)


def test_what_the_page_says_of_folders_and_files_is_so(kaggle, tmp_path):
    """The folder is no source, joined files are, and the placeholder's ids are dropped."""
    data = kaggle / "input" / "arc-prize-2025"
    challenges = [f"{data}/arc-agi_{part}_challenges.json" for part in PARTS]
    command = [sys.executable, "train.py", "config/arc1.py", "--val=", f"--tasks={challenges[2]}",
               *SHRUNK, f"--out_dir={tmp_path}/run"]
    done = subprocess.run([*command, f"--train={data}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "holds 3 files of challenges" in done.stderr
    both = f"--train={challenges[0]}+{challenges[1]}"
    done = subprocess.run([*command, both], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "leak guard: 4 dropped" in done.stdout
    submission = tmp_path / "run" / "submission.json"
    done = subprocess.run([sys.executable, "-m", "arc.score", submission, challenges[1]], cwd=ROOT,
                          capture_output=True, text=True)
    assert re.match(r"pass1: .*\npass2: .*\nscored: 4 of 4 tasks", done.stdout), done.stderr


def test_the_page_names_what_the_repository_pins():
    pins = (ROOT / "requirements.txt").read_text().split()
    assert set(re.findall(r"schedulefree==\S+", PAGE)) <= set(pins)
    low, high = re.search(r"torch 2\.(\d+) to 2\.(\d+)", PAGE).groups()
    assert f"torch>=2.{low},<=2.{high}.0" in pins
    assert max(map(len, PAGE.splitlines())) <= 120
    for link in re.findall(r"\]\(([^):]+)\)", PAGE):
        assert (ROOT / "results" / link).is_file(), link
    for name in re.findall(r"\w+\.py", PAGE):
        assert (ROOT / name).exists() or (ROOT / "config" / name).exists(), name
    (minutes,) = re.findall(r"`config/arc1.py` took ([\d.]+) minutes on one H100", PAGE)
    row = next(line for line in ARC1.splitlines() if "`arc1.py`**" in line)
    assert f"| {minutes} minutes, one H100:" in row


# ------------------------------------------------------------------------------------------------
# The notebook


def code_cells(machine):
    """Returns the source of the code cells, for a made-up machine and a shrunk network."""
    cells = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert "KNOBS = []" in cells[0] and not any("/kaggle" in cell for cell in cells[1:])
    cells[0] = cells[0].replace("/kaggle/", f"{machine}/").replace("KNOBS = []",
                                                                   f"KNOBS = {SHRUNK!r}")
    return cells


def test_the_notebook_is_small_and_holds_no_output():
    assert NOTEBOOK["nbformat"] == 4 and 5 <= len(NOTEBOOK["cells"]) <= 8
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert max(map(len, cell["source"])) <= 120


def test_the_cells_of_the_notebook_make_a_submission(kaggle, tmp_path):
    shutil.copytree(tmp_path / "registry", kaggle / "input" / "nanoarc" / "wheels")
    attached, names = files_below(kaggle / "input"), {}
    for cell in code_cells(kaggle):
        exec(compile(cell, "kaggle.ipynb", "exec"), names)
    assert files_below(kaggle / "input") == attached
    assert (tmp_path / "site" / "schedulefree" / "__init__.py").exists()
    check_submission(kaggle)
    # the page and the notebook train alike
    asked = {arg for arg in PAGE.split() if arg.startswith(("--val", "--tasks", "--train=/"))}
    given = json.loads((kaggle / "working" / "run" / "config.json").read_text())["given"]
    for arg in asked:
        key, _, value = arg[2:].partition("=")
        assert given[key] == value.replace("/kaggle/", f"{kaggle}/")


def test_a_notebook_that_lacks_an_attempt_says_so(kaggle):
    """The check in the last cell can fail."""
    (kaggle / "working").mkdir(exist_ok=True)
    wrong = {name: [{"attempt_1": [[1]]}] for name in ("flip0", "flip1", "flip2", "two")}
    (kaggle / "working" / "submission.json").write_text(json.dumps(wrong))
    names = {"subprocess": subprocess, "sys": sys}
    first, *_, last = code_cells(kaggle)
    exec(first, names)
    names["TEST"] = Path(names["DATA"]) / "arc-agi_test_challenges.json"
    with pytest.raises(AssertionError, match="flip0"):
        exec(last, names)


def test_jupyter_runs_the_notebook(kaggle, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    shutil.copytree(tmp_path / "registry", kaggle / "input" / "nanoarc" / "wheels")
    notebook = nbformat.read(ROOT / "notebooks" / "kaggle.ipynb", 4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, source in zip(cells, code_cells(kaggle), strict=True):
        cell.source = source
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}}).execute()
    check_submission(kaggle)
