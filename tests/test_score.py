"""Answers -> predictions -> votes -> scores -> submission, and a submission scored again."""
import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from arc import score as rescore
from arc.score import Prediction, attempts_by_votes, score, submission, to_prediction, vote
from arc.task import Query
from arc.tokens import ROW, START, encode_grid
from arc.views import IDENTITY, SYMMETRIES, random_colors, view_grid
from config import UserError
from conftest import (ROOT, arc_data, flip_tasks, grid, make_task, random_grid, write_tasks)
from model import Answer

RNG = np.random.default_rng(0)
TASK = make_task("t", "1 > 1", "1 > 1")


# ------------------------------------------------------------------------------------------------
# Answers


@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_a_prediction_is_turned_back_from_its_view(symmetry):
    for _ in range(20):
        g, colors = random_grid(RNG, 6), random_colors(RNG)
        tokens = encode_grid(view_grid(g, symmetry, colors))
        query = Query(TASK, 0, 3, symmetry, colors, (0,))
        found = to_prediction(query, Answer(tokens, np.linspace(-1, 0, len(tokens) + 1)))
        assert np.array_equal(found.grid, g)
        assert found.logprob == pytest.approx(-0.5)
        assert (found.task, found.test, found.view) == ("t", 0, 3)


def test_answers_that_are_no_grid_are_predictions_without_one():
    query = Query(TASK, 0, 0, 0, IDENTITY, (0,))
    for tokens in ([1, 1], [1, ROW, 1, 1, ROW], [ROW], [], [START, ROW]):
        logprobs = np.full(len(tokens) + 1, -0.5)
        found = to_prediction(query, Answer(np.array(tokens, np.int64), logprobs))
        assert found.grid is None
        assert found.logprob == -0.5
    assert to_prediction(query, None).grid is None


# ------------------------------------------------------------------------------------------------
# Votes

A, B, C = grid("1"), grid("2"), grid("1 1")

VOTES = {
    "count first": ([(A, -1), (B, -.1), (A, -1)], [A, B]),
    "then the log-probability": ([(A, -2), (B, -1)], [B, A]),
    "its mean over all predictions of a grid":
        ([(A, -1), (B, -1.5), (B, -1.7), (A, -3)], [B, A]),
    "then the earlier view": ([(C, -1), (B, -1), (A, -1)], [C, B, A]),
    "what is no grid does not vote": ([(None, 0), (A, -5), (None, 0)], [A]),
    "no grid": ([(None, 0)], []),
    "nothing": ([], []),
}


def as_lists(grids):
    return [g.tolist() for g in grids]


@pytest.mark.parametrize("rule", VOTES)
def test_votes_order_the_grids(rule):
    drawn, ranked = VOTES[rule]
    predictions = []
    for view, (g, logprob) in enumerate(drawn):
        predictions.append(Prediction("t", 0, view, g, logprob))
    assert as_lists(vote(predictions)) == as_lists(ranked)
    # the number of a view counts, not the order of the list
    assert as_lists(vote(predictions[::-1])) == as_lists(ranked)


# ------------------------------------------------------------------------------------------------
# Scores


def scored(tasks, predictions):
    """Returns (metrics, attempts) of predictions that vote."""
    attempts = attempts_by_votes(predictions)
    return score(tasks, predictions, attempts), attempts


def predictions_of(*rows):
    """Returns the predictions of rows (task id, test number, [(grid, logprob) of each view])."""
    predictions = []
    for task, test, views in rows:
        for view, (g, logprob) in enumerate(views):
            predictions.append(Prediction(task, test, view, g, logprob))
    return predictions


def test_score_worked_by_hand():
    tasks = [make_task("two", "1 > 1", "3 > 1; 4 > 2"),        # inputs 0 and 1: answers A and B
             make_task("one", "1 > 1", "5 > 11"),
             make_task("hidden", "1 > 1", "6")]
    predictions = predictions_of(
        ("two", 0, [(A, -1), (B, -2)]),                        # right at once
        ("two", 1, [(A, -1), (A, -1), (B, -1)]),               # right at the second attempt
        ("one", 0, [(None, -1), (grid("21"), -1), (A, -2), (grid("11"), -3)]),
        ("hidden", 0, [(A, -1)]))
    metrics, attempts = scored(tasks, predictions)
    assert metrics == {
        "pass1_single": 0.25,
        "pass1_view": pytest.approx(1 / 3),
        "pass1": 0.25,
        "pass2": 0.5,
        "oracle": 1.0,
        "prediction_cells": 0.25,
        "failed_predictions": 0.1,
        "tasks": 2,
    }
    assert as_lists(attempts["one", 0]) == [[[2, 1]], [[1]], [[1, 1]]]
    twice = {"attempt_1": [[1]], "attempt_2": [[2]]}
    assert submission(tasks, attempts) == {
        "two": [twice, twice],
        "one": [{"attempt_1": [[2, 1]], "attempt_2": [[1]]}],
        "hidden": [{"attempt_1": [[1]], "attempt_2": [[1]]}],
    }


def test_attempts_in_another_order_change_only_what_they_decide():
    """Reranked attempts, of the same predictions."""
    task = make_task("t", "1 > 1", "3 > 2")
    predictions = predictions_of(("t", 0, [(A, -1), (A, -1), (B, -1), (C, -1)]))
    metrics, attempts = scored([task], predictions)
    other = score([task], predictions, {("t", 0): attempts["t", 0][::-1]})
    last = score([task], predictions, {("t", 0): [A, C, B]})
    assert (metrics["pass1"], metrics["pass2"], metrics["oracle"]) == (0, 1, 1)
    assert (last["pass1"], last["pass2"], last["oracle"]) == (0, 0, 1)
    assert other["pass2"] == 1
    kept = ("pass1_single", "pass1_view", "prediction_cells", "failed_predictions", "tasks")
    for name in kept:
        assert metrics[name] == other[name] == last[name]


def test_without_a_valid_prediction_the_submission_holds_zero():
    task = make_task("t", "1 > 1", "3 > 1; 4 > 2")
    # and no prediction at all of the second test input
    metrics, attempts = scored([task], [Prediction("t", 0, 0, None, -1)])
    assert submission([task], attempts) == {"t": [{"attempt_1": [[0]], "attempt_2": [[0]]}] * 2}
    assert metrics["pass2"] == metrics["oracle"] == metrics["prediction_cells"] == 0
    assert metrics["failed_predictions"] == 1


@pytest.mark.parametrize("text, cells", [("1234", 1), ("1299", 0.5), ("12 34", 0)])
def test_cells_are_those_of_the_plain_view(text, cells):
    task = make_task("t", "1 > 1", "3 > 1234")
    other = (grid("9999"), 0)
    predictions = predictions_of(("t", 0, [(grid(text), 0), other]))
    assert scored([task], predictions)[0]["prediction_cells"] == cells


# ------------------------------------------------------------------------------------------------
# A submission that is scored again

ASKED = [make_task("two", "1 > 1", "3 > 1; 4 > 2"), make_task("one", "1 > 1", "5 > 11"),
         make_task("open", "1 > 1", "6; 7 > 2"), make_task("hidden", "1 > 1", "6"),
         make_task("left out", "1 > 1", "7 > 2")]


def row(first, second):
    return {"attempt_1": first, "attempt_2": second}


SUBMITTED = {
    "two": [row([[1]], [[9]]), row([[9]], [[2]])],             # right at once, and at the second
    "one": [row([[0]], [[0]]), row([[1]], [[1]])],             # no attempt; and one too many
    "open": [row([[1]], [[1]]), {"attempt_2": [[2]]}],         # the first attempt is missing
    "hidden": [row([], None)],
    "nobody": [row([[1]], [[1]])],
    "odd\n": [],
}


@pytest.fixture
def again(tmp_path, capsys):
    """again(submission, tasks) returns the metrics and what `python -m arc.score` prints."""
    def again(submitted, tasks=ASKED, name="submission.json"):
        path = tmp_path / name
        text = submitted if isinstance(submitted, str) else json.dumps(submitted)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        file = write_tasks(tmp_path / "tasks.json", tasks)
        metrics = rescore.main([str(path), str(file)])
        return metrics, capsys.readouterr().out.splitlines()
    return again


@pytest.mark.parametrize("name", ["submission.json", "submission.json.gz"])
def test_a_submission_is_scored_over_all_tasks_that_were_asked(again, name):
    """By hand: two 0.5 and 1, one 0 and 0, open 0 and 1, left out 0 and 0; hidden has no answer."""
    metrics, lines = again(SUBMITTED, name=name)
    assert (metrics["pass1"], metrics["pass2"]) == (pytest.approx(0.5 / 4), pytest.approx(2 / 4))
    assert lines == [
        "pass1: 0.1250",
        "pass2: 0.5000",
        "scored: 4 of 5 tasks, those whose answers are known",
        "without an attempt, or [[0]]: 3 of 7 queries",
        "not asked for: 3 ids one nobody 'odd\\n'",
    ]


def test_what_a_run_submits_scores_as_the_run_did(again):
    tasks, rng, attempts = flip_tasks(6, seed=2), np.random.default_rng(0), {}
    assert tasks[0].test[0][1].tolist() != [[0]]       # what is written for no attempt
    for task in tasks[1:]:
        grids = [task.test[0][1], random_grid(rng), random_grid(rng)]
        attempts[task.id, 0] = [grids[k] for k in rng.permutation(3)]
    expected = score(tasks, [], attempts)
    metrics, lines = again(submission(tasks, attempts), tasks)
    for name in ("pass1", "pass2", "tasks"):
        assert metrics[name] == expected[name]
    assert 0 < metrics["pass1"] < metrics["pass2"] < 1
    assert lines[-2:] == ["without an attempt, or [[0]]: 1 of 6 queries", "not asked for: 0 ids"]


def test_where_no_answer_is_known_only_the_form_is_checked(again):
    metrics, lines = again({}, [make_task("a", "1 > 1", "2; 3")])
    assert lines == ["scored: 0 of 1 tasks, those whose answers are known",
                     "without an attempt, or [[0]]: 2 of 2 queries", "not asked for: 0 ids"]
    assert metrics["tasks"] == 0


NO_SUBMISSIONS = {
    "a list": ([SUBMITTED], "expected {task id"),
    "no list of inputs": ({"two": row([[1]], [[1]])}, "expected {task id"),
    "grids alone": ({"two": [[[1]], [[2]]]}, "expected {task id"),
    "keys of another name": ({"two": [{"attempt1": [[1]]}]}, "expected {task id: .*attempt_1"),
    "a ragged grid": ({"two": [row([[1]], [[1], [1, 2]])]},
                      "task two, test input 0, attempt_2: ragged"),
    "a color too many": ({"a\n": [row([[10]], [[1]])]}, r"task 'a.n', .*attempt_1: 10 is no color"),
    "text": ({"two": [row("[[1]]", [[1]])]}, "attempt_1: empty grid, or not a list of rows"),
    "a task twice": ('{"two": [], "two": []}', "'two' stands twice"),
    "half a file": ('{"two": [', "not readable as JSON"),
}


@pytest.mark.parametrize("case", NO_SUBMISSIONS)
def test_what_is_no_submission_is_one_line(again, case):
    content, message = NO_SUBMISSIONS[case]
    with pytest.raises(UserError, match=f"submission.json.*{message}") as error:
        again(content)
    assert str(error.value).isprintable()


def test_tasks_that_are_asked_twice_are_refused(tmp_path):
    for name in ("a", "b"):
        write_tasks(tmp_path / f"{name}.json", ASKED[:1])
    (tmp_path / "submission").write_text("{}")
    with pytest.raises(UserError, match="holds two tasks of one id, two; rename"):
        rescore.main([str(tmp_path / "submission"), f"{tmp_path}/a.json+{tmp_path}/b.json"])
    for wrong in ([], ["a"], ["a", "b", "c"]):
        with pytest.raises(UserError, match="python -m arc.score SUBMISSION TASKS"):
            rescore.main(wrong)


def test_scoring_again_is_a_command_that_needs_no_torch(tmp_path):
    (tmp_path / "submission.json").write_text(json.dumps(SUBMITTED))
    file = write_tasks(tmp_path / "tasks.json", ASKED)
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import arc.score as score; "
    code += "score.main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for command in (["-c", code], ["-m", "arc.score"]):
        done = subprocess.run([sys.executable, *command, tmp_path / "submission.json", file],
                              cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("pass1: 0.1250\npass2: 0.5000\n")
    done = subprocess.run([sys.executable, "-m", "arc.score", "nowhere", file], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: nowhere: no such submission")


@pytest.mark.parametrize("name", ["rearc_75000", "quadtree"])
def test_a_published_submission_has_its_published_score(capsys, name):
    path = ROOT / "results" / "arc1" / f"{name}.submission.json.gz"
    metrics = rescore.main([str(path), str(arc_data("arc1-evaluation.json"))])
    lines = (ROOT / "results" / "arc1" / f"{name}.jsonl").read_text().splitlines()
    (test,) = [record for record in map(json.loads, lines) if record["kind"] == "test"]
    assert metrics["pass2"] == pytest.approx(test["pass2"]) and metrics["tasks"] == 400
    assert "without an attempt, or [[0]]: 0 of 419 queries" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------
# Several submissions


def submitted(*attempts):
    """Returns a submission of one task "t"; attempts: the two of each test input."""
    return {"t": [dict(zip(("attempt_1", "attempt_2"), pair)) for pair in attempts]}


def test_attempts_of_submissions_vote(tmp_path):
    a, b, c, none = [[1]], [[2]], [[3]], [[0]]
    files = []
    for number, attempts in enumerate([
            [(a, b), (a, b), (a, a), (none, none), (none, none)],
            [(c, b), (b, c), (b, c), (none, none), (a, b)],
            [(b, c), (c, a), (b, c), (none, none), (none, none)]]):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(submitted(*attempts)))

    def run(*names):
        command = [sys.executable, "results/vote.py", *map(str, names), f"--out={tmp_path}/o.json"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run(*files).returncode == 0
    # votes: a 2, b 4, c 3; each 3, the earliest first; a 3, b 4; none; placeholders do not vote
    expected = submitted((b, c), (a, b), (b, a), (none, none), (a, b))
    assert json.loads((tmp_path / "o.json").read_text()) == expected

    shorter = tmp_path / "shorter.json"
    shorter.write_text(json.dumps(submitted((a, b))))
    failed = run(files[0], shorter)
    assert failed.returncode == 1
    assert "shorter.json answers other queries than" in failed.stderr
    assert "python results/vote.py SUBMISSION" in run(files[0]).stderr
