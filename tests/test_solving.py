"""Tasks to solve with grids beyond the canvas: their queries count as failed, the rest goes on."""
import json

import numpy as np
import pytest
import torch

import refine
import train
from arc.sources import canvas_lines
from config import Config, UserError
from conftest import (ROOT, TINY, checkpoint, filled_model, flags, flip_tasks, grid, make_task,
                      records, tiny_config, write_tasks)
from engine.predict import Predictor, QuerySet, make_queries

ROW, COLUMN = "1" * 8, " ".join("1" * 8)       # sides of 8 on a canvas of 8: columns 0 to 8


def queries_of(task, config, **changes):
    return [query._replace(**changes) for query in make_queries([task], 1, config)]


@pytest.mark.parametrize("wide", [ROW, COLUMN, f"{ROW} {ROW}"])
@pytest.mark.parametrize("symmetries", [False, True])
def test_a_query_that_shows_a_grid_beyond_the_canvas_has_no_document(wide, symmetries):
    config = Config(demos=2, symmetries=symmetries, max_answer=40)
    tasks = {
        "fits": (make_task("a", "1 > 1; 2 > 2", f"{ROW[1:]}"), {}),
        "wide input": (make_task("b", "1 > 1; 2 > 2", wide), {}),
        "wide demonstration": (make_task("c", f"1 > 1; 2 > {wide}", "1"), {}),
        "not shown": (make_task("d", f"1 > 1; 2 > 2; 3 > {wide}", "1"), {}),
        "wide proposal": (make_task("e", "1 > 1; 2 > 2", "1"), dict(proposal=grid(wide))),
        "wide draft": (make_task("f", "1 > 1; 2 > 2", "1"), dict(draft=grid(wide))),
        "wide answer": (make_task("g", "1 > 1; 2 > 2", f"1 > {wide}"), {}),
    }
    queries = [query for task, changes in tasks.values()
               for query in queries_of(task, config, **changes)]
    fitting = QuerySet(queries, config, {}, "cpu", 8).fitting
    names = [name for i, name in enumerate(tasks) if i in fitting]
    assert names == ["fits", "not shown", "wide answer"]
    assert QuerySet(queries, config, {}, "cpu", 16).fitting == list(range(7))


@pytest.mark.parametrize("encoding", ["quadtree", "onehot", "rope3d"])
def test_a_network_answers_the_others_as_if_the_wide_ones_were_not_there(encoding):
    config = Config(demos=2, max_answer=20, encoding=encoding, rerank_views=2)
    model = filled_model(tiny_config(encoding=encoding, canvas=8, n_pairs=3)).eval()
    predictor = Predictor(model, config, {}, torch.device("cpu"), lambda text: None)
    small = flip_tasks(3, demos=2)
    wide = [make_task("wide", f"1 > 1; 2 > {ROW}", "3 > 4"), make_task("column", "1 > 1", COLUMN)]
    found = predictor.predict(small + wide, 3)
    alone = predictor.predict(small, 3)
    of_small = [p for p in found if p.task.startswith("flip")]
    assert len(found) > len(of_small) == len(alone)
    # early views come first, then late ones
    key = [(p.task, p.test, p.view, None if p.grid is None else p.grid.tolist()) for p in alone]
    assert key == [(p.task, p.test, p.view, None if p.grid is None else p.grid.tolist())
                   for p in of_small]
    assert {p.grid is None for p in found if not p.task.startswith("flip")} == {True}
    # of wide ones alone nothing is left to decode, to judge or to rerank
    only = predictor.predict(wide, 3)
    assert [p.grid for p in only] == [None] * len(only)
    queries = [q._replace(proposal=grid("1")) for q in make_queries(wide, 1, config)]
    assert not any(values.any() for values in predictor.judge(queries).values())
    attempts = {("wide", 0): [grid("1"), grid("2")]}
    assert predictor.rerank(wide, attempts)["wide", 0][0].tolist() == [[1]]


def test_one_wide_grid_fails_its_own_queries(run, tmp_path):
    run(oned_lift=0, test="", max_steps=30)    # canvas 16
    tasks = flip_tasks(3, most=6)
    wide = make_task("wide", "1 > 1", "1" * 16 + " > 1; 1 > " + "1" * 16)
    mixed = write_tasks(tmp_path / "mixed.json", [*tasks, wide])
    metrics = run(eval_only=True, tasks=mixed)
    assert metrics["tasks"] == 4 and metrics["n"] == 5
    folder = tmp_path / "run" / "mixed"
    log = (folder / "log.txt").read_text()
    assert "1 tasks have grids beyond the canvas of 16 (sides up to 15; it was chosen when" in log
    assert "queries with one count as failed: wide" in log
    submitted = json.loads((folder / "submission.json").read_text())
    zero = {"attempt_1": [[0]], "attempt_2": [[0]]}
    assert submitted.pop("wide")[0] == zero    # the second input fits, its answer does not
    run(eval_only=True, tasks=write_tasks(tmp_path / "small.json", tasks))
    small = tmp_path / "run" / "small"
    assert submitted == json.loads((small / "submission.json").read_text())
    assert "beyond the canvas" not in (small / "log.txt").read_text()
    (alone,), (found,) = records(small, "test"), records(folder, "test")
    assert found["pass2"] == pytest.approx(alone["pass2"] * 3 / 4)


def test_a_run_may_choose_by_tasks_of_which_one_answer_is_wide(run, tmp_path):
    """The canvas may not tell the size of an answer, so it is chosen without it."""
    val = [*flip_tasks(2), make_task("wide", "1 > 1", "1 > " + "1" * 20)]
    train_file = write_tasks(tmp_path / "train.json", flip_tasks(6, seed=1))
    run(train=train_file, val=write_tasks(tmp_path / "val.json", val), test="")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "1 tasks have grids beyond the canvas of 8" in log
    assert "1 of 3 known answers do not fit" in log


def test_the_canvas_holds_test_outputs_that_are_trained_on(run, tmp_path):
    tasks = [*flip_tasks(3), make_task("wide", "1 > 1; 2 > 2", "3 > " + "1" * 20)]
    run(train=write_tasks(tmp_path / "wide.json", tasks), val="", test="")
    assert checkpoint(tmp_path / "run")["model_config"]["canvas"] == 32


def test_tasks_to_train_on_must_fit_the_canvas(run, tmp_path):
    wide = write_tasks(tmp_path / "wide.json", [make_task("wide", "1 > 1; 2 > " + ROW, "3 > 4")])
    with pytest.raises(UserError, match="task wide: a grid of 1x8 .*canvas of 8.*--canvas=16"):
        run(train=wide, val="", test="", canvas=8)
    small = write_tasks(tmp_path / "small.json", flip_tasks(3))
    with pytest.raises(UserError, match="task wide: a grid of 1x8 .*canvas of 8"):
        run(train=small, val="", test=wide, canvas=8, task_embed=True)     # trained on, too
    with pytest.raises(UserError, match="generated tasks are up to 9 wide.*--oned_max_width"):
        run(val="", test="", canvas=8)


def test_refinement_solves_the_rest_too(run, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    knobs = {**TINY, "oned_lift": 0, "max_steps": 150, "out_dir": tmp_path / "run",
             "refine_tasks": 20, "refine_steps": 2, "oned_eval": 4, "test": ""}
    train.main(flags(**knobs))
    refine.main(flags(**knobs))
    tasks = [*flip_tasks(2), make_task("wide", "1 > 1", "1" * 16 + " > 1")]
    mixed = write_tasks(tmp_path / "mixed.json", tasks)
    metrics = refine.main(flags(**{**knobs, "eval_only": True, "tasks": mixed}))
    assert metrics["tasks"] == 3
    folder = tmp_path / "run" / "refine" / "mixed"
    assert "1 tasks have grids beyond the canvas of 16" in (folder / "log.txt").read_text()
    submitted = json.loads((folder / "submission.json").read_text())
    assert list(submitted) == ["flip0", "flip1", "wide"]
    assert submitted["wide"] == [{"attempt_1": [[0]], "attempt_2": [[0]]}]


def test_the_line_counts_tasks_once():
    wide = make_task("wide", f"{ROW} > {COLUMN}", f"{ROW} > 1")
    assert canvas_lines([wide, wide, *flip_tasks(2)], 16) == []
    (line,) = canvas_lines([wide, wide, *flip_tasks(2)], 8)
    assert line.startswith("1 tasks have grids beyond the canvas of 8 (sides up to 7; ")
    assert np.all([name not in line for name in ("flip0", "flip1")])


def test_eval_only_leaves_the_config_of_the_run_alone(tmp_path):
    """Also where the run's own test is named again by --tasks."""
    mine = write_tasks(tmp_path / "my.json", flip_tasks(3, most=3))
    knobs = {**TINY, "out_dir": tmp_path / "run", "tasks": mine}
    train.main(flags(**knobs))
    written = (tmp_path / "run" / "config.json").read_bytes()
    metrics = train.main(flags(**knobs, eval_only=True))
    assert metrics["times_scored"] == 2
    assert (tmp_path / "run" / "config.json").read_bytes() == written
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["eval_only"]


def test_a_network_that_saw_the_answers_says_so(run, tmp_path, monkeypatch):
    """However often it is trained further; the leak guard of a run knows its own data alone."""
    def tasks_named(name, count, seed):
        tasks = flip_tasks(count, seed=seed)
        tasks = [task._replace(id=f"{name}{i}") for i, task in enumerate(tasks)]
        return write_tasks(tmp_path / f"{name}.json", tasks)
    seen, new, other = (tasks_named(*of) for of in (("seen", 3, 0), ("new", 4, 1), ("other", 5, 2)))

    def said(folder, name="log.txt"):
        lines = (tmp_path / folder / name).read_text().splitlines()
        return [line for line in lines if "trained on test pairs" in line]
    run(train=seen, val="", test=new, out="first")
    run(eval_only=True, tasks=seen, out="first")
    assert said("first") == []
    note = ("note: the checkpoint was trained on test pairs of 3 tasks of val or test, so their "
            "score says nothing of new ones: seen0 seen1 seen2")
    assert said("first/seen") == [note]

    start = tmp_path / "first" / "ckpt.pt"
    run(train=other, val="", test=seen, out="second", init_from=start)
    assert said("second") == [note]
    run(train=other, val="", test=seen, out="second", resume=True)
    assert said("second") == [note, note]
    run(train=other, val="", test=new, out="third", init_from=tmp_path / "second" / "ckpt.pt")
    assert said("third") == []
    run(eval_only=True, tasks=seen, out="third")
    assert said("third/seen") == [note]

    monkeypatch.chdir(ROOT)                    # refinement trains on what it drafts, too
    knobs = {**TINY, "train": other, "val": "", "test": new, "out_dir": tmp_path / "base",
             "max_steps": 100, "refine_train": seen, "refine_steps": 2}
    train.main(flags(**knobs))
    refine.main(flags(**knobs))
    refine.main(flags(**{**knobs, "eval_only": True, "tasks": seen}))
    assert said("base/refine") == [] and said("base/refine/seen") == [note]
    with pytest.raises(UserError, match=r"task seen\d has a query that this network trained"):
        refine.main(flags(**{**knobs, "out_dir": tmp_path / "third", "max_steps": 2}))
