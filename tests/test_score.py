"""Answers -> predictions -> votes -> scores -> submission."""
import numpy as np
import pytest

from arc.score import Prediction, score, submission, to_prediction, vote, votes_of
from arc.task import Query
from arc.tokens import ROW, START, encode_grid
from arc.views import IDENTITY, SYMMETRIES, random_colors, view_grid
from conftest import grid, make_task, random_grid
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
        query = Query(TASK, 0, 3, symmetry, colors)
        found = to_prediction(query, Answer(tokens, np.linspace(-1, 0, len(tokens) + 1)))
        assert np.array_equal(found.grid, g)
        assert found.logprob == pytest.approx(-0.5)
        assert (found.task, found.test, found.view) == ("t", 0, 3)


def test_answers_that_are_no_grid_are_predictions_without_one():
    query = Query(TASK, 0, 0, 0, IDENTITY)
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
    attempts = votes_of(predictions)
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
