"""The refinement network: what it is at the start, what it reads, its drafts, that it repairs."""
import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import refine
import train
from arc.leaks import held_out, pair_key
from arc.score import Prediction, same
from arc.sources import load_data
from arc.task import Query, known_pairs
from arc.views import IDENTITY, view_pairs
from config import Config, UserError, load_config
from conftest import (ROOT, TINY, checkpoint, equal, filled_model, flags, flip_tasks, grid,
                      make_task, records, tiny_config, write_tasks)
from engine.batches import IGNORE
from engine.optim import Optimizer
from engine.predict import Predictor, make_queries

CPU = torch.device("cpu")
SMALL = {**TINY, "max_steps": 250, "oned_eval": 12, "refine_tasks": 60, "refine_steps": 4,
         "eval_every": 2}
SETTINGS = {key: value for key, value in TINY.items() if key != "device"}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A checkpoint of a network that solves a part of its tasks."""
    folder = tmp_path_factory.mktemp("first")
    train.main(flags(**{**SMALL, "eval_every": 250}, out_dir=folder))
    return folder / "ckpt.pt"


def base_of(path):
    """Returns what tasks_to_draft reads of the base network's checkpoint."""
    return {"path": path, "trained_keys": checkpoint(path.parent, path.name)["trained_keys"]}


@pytest.fixture
def again(first, tmp_path, monkeypatch):
    """again(key=value) is refine.main on that network, in tmp_path/run/refine."""
    monkeypatch.chdir(ROOT)

    def again(out="run", **knobs):
        knobs = {**SMALL, "refine_from": first, "out_dir": tmp_path / out, **knobs}
        return refine.main(flags(**knobs))
    return again


def grown(optimizer="muon_schedulefree", **sizes):
    """A network of three pairs, and the Refiner with room for one more that goes on from it."""
    base = filled_model(tiny_config(n_pairs=3, **sizes)).eval()
    model = refine.Refiner(base.config)
    opt = Optimizer(model, Config(optimizer=optimizer))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    opt.step(1e-3)                             # so that there is a state to grow
    model.load_state_dict(base.state_dict())
    refine.add_draft_pair(model, opt)
    return base, model.eval(), opt


def predictor(model, **knobs):
    return Predictor(model, Config(**{**SETTINGS, "demos": 2, **knobs}), {}, CPU)


def query_of(task, draft=None, proposal=None):
    draft, proposal = (None if text is None else grid(text) for text in (draft, proposal))
    return Query(task, 0, 0, 0, IDENTITY, (0, 1, 2)[:len(task.train)], proposal, draft)


TASK = make_task("t", "12 > 21; 34 > 43", "56 > 65")


# ------------------------------------------------------------------------------------------------
# The network


@torch.no_grad()
def test_without_a_draft_it_answers_as_the_base_network():
    """At the start of refinement."""
    base, model, _ = grown()
    query = query_of(TASK, proposal="65")
    logits = []
    for network in (base, model):
        batch = predictor(network).query_set([query]).batch([0])
        logits.append(network(batch.tokens, batch.coords, batch.cu_seqlens, batch.task_view))
    assert torch.equal(*logits) and model.config.n_pairs == base.config.n_pairs + 1


@pytest.mark.parametrize("optimizer", ["muon_schedulefree", "schedulefree", "adamw", "muon"])
def test_the_optimizer_goes_on_with_one_pair_more(optimizer):
    base, model, opt = grown(optimizer)
    table = model.segment.weight
    assert len(table) == len(base.segment.weight) + 2
    assert torch.equal(table[-2:], table[-4:-2])
    states = [part.state[table] for part in opt.parts if table in part.state]
    assert len(states) == 1
    sizes = {key: value.shape for key, value in states[0].items() if getattr(value, "ndim", 0) == 2}
    assert sizes and all(size == table.shape for size in sizes.values())
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    opt.step(0.01)
    assert table.isfinite().all() and not torch.equal(table[-2:], table[-4:-2])


def test_gradients_reach_every_token_of_the_draft():
    _, model, _ = grown()
    batch = predictor(model).query_set([query_of(TASK, "57 65", "65")]).batch([0])
    embedded = []
    model.token.register_forward_hook(lambda module, args, out: embedded.append(out))
    logits = model(batch.tokens, batch.coords, batch.cu_seqlens, batch.task_view)
    loss = F.cross_entropy(logits[batch.is_query.bool()], batch.targets[batch.is_query.bool()])
    (gradient,) = torch.autograd.grad(loss, embedded)
    in_draft = batch.coords[:, 1] == 2 * 2 + 1                          # output of the third pair
    assert in_draft.sum() == 7 and (gradient[in_draft].abs().sum(1) > 0).all()


def test_a_draft_is_read_and_is_no_target():
    """Demonstrations, input, draft, answer: only outputs of demonstrations and the answer count."""
    _, model, _ = grown()
    batch = predictor(model).query_set([query_of(TASK, "57 65", "65")]).batch([0])
    pair = batch.coords[:, 1] // 2
    asked = {int(p) for p in pair[:-1][(batch.targets != IGNORE)[:-1]]}
    assert asked == {0, 1, 3} and int(pair.max()) == 3
    assert batch.targets[batch.is_query.bool()].tolist() == [6, 5, 11, 13]
    assert batch.tokens[pair == 3].tolist() == [10, 12, 6, 5, 11, 13]   # its pair has no input


def test_the_answer_may_have_another_shape_than_the_draft():
    _, model, _ = grown()
    found = predictor(model).predict_queries([query_of(TASK, "1 2 3")])
    set_ = predictor(model).query_set([query_of(TASK, "1 2 3", "123456")])
    assert len(found) == 1 and set_.documents.query_output_lengths().tolist() == [8]


def test_it_learns_to_repair_errors_it_has_never_seen():
    """One cell of each answer is repainted; other tasks, colors and places than in training."""
    def planted(seed, count):
        rng, queries = np.random.default_rng(seed), []
        for task in refine_tasks(seed, count):
            answer = task.test[0][1]
            draft = answer.copy()
            column = rng.integers(answer.shape[1])
            draft[0, column] = (draft[0, column] + rng.integers(1, 10)) % 10
            queries.append(Query(task, 0, 0, 0, IDENTITY, (0, 1, 2), answer, draft))
        return queries

    config = Config(**{**SETTINGS, "demos": 3, "refine_right": 0.0, "max_steps": 300})
    torch.manual_seed(0)
    base = tiny_config(canvas=16, max_len=320, n_embd=48)
    model = refine.Refiner(base)
    optimizer = Optimizer(model, config)
    refine.add_draft_pair(model, optimizer)
    asking = Predictor(model, config, {}, CPU)
    queries = planted(1, 600)
    tasks = [query.task for query in queries]
    bank = [(n, 0, query.draft.tolist()) for n, query in enumerate(queries)]
    drafts = refine.Drafts(bank, tasks, frozenset(), asking)

    class Stream:
        def steps(self, start, workers):
            return (drafts.step(step) for step in range(start, config.max_steps))
    forward_backward = train.ForwardBackward(config, model, CPU)
    for step in Stream().steps(0, 0):
        forward_backward(step, 640)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(1e-2)
    with refine.averaged(model, optimizer):
        unseen = planted(2, 100)
        found = refine.read_drafts(asking, unseen)
    fixed = [same(prediction.grid, query.target) for prediction, query in zip(found, unseen)]
    assert np.mean(fixed) > 0.5


def refine_tasks(seed, count):
    from arc import oned
    return oned.draw_tasks(seed, count, ["1d_fill"], (7, 9), 0)


# ------------------------------------------------------------------------------------------------
# Drafts


def drafts_of(config, tasks, grids, banned=frozenset(), rows=None):
    """Drafts: for each task the grids given as text."""
    asking = Predictor(refine.Refiner(tiny_config(canvas=16)), config, rows or {}, CPU)
    bank = [(n, 0, grid(text).tolist()) for n, texts in enumerate(grids) for text in texts]
    return refine.Drafts(bank, tasks, banned, asking)


def test_a_step_follows_from_its_number():
    config = Config(**SETTINGS)
    tasks = flip_tasks(20, demos=2)
    drafts = drafts_of(config, tasks, [["12", "1"]] * 20)
    one, same_one, other = (drafts.step(step).documents for step in (3, 3, 5))
    for a, b in zip(one.slices, same_one.slices):
        assert np.array_equal(a, b)
    assert np.array_equal(one.colors, same_one.colors)
    assert not np.array_equal(one.slices.start, other.slices.start)
    assert one.lengths().sum() <= config.batch_tokens


def test_a_quarter_of_the_drafts_is_right():
    """By refine_right, however many there are of each kind."""
    config = Config(**SETTINGS, refine_right=0.25)
    tasks = [make_task(f"t{i}", "1 > 2; 3 > 4", "5 > 6") for i in range(200)]
    drafts = drafts_of(config, tasks, [["6"] if i < 150 else ["7"] for i in range(200)])
    assert drafts.chances[:150].sum() == pytest.approx(0.25)
    assert drafts.chances[150:].sum() == pytest.approx(0.75)


def test_drafts_come_under_every_symmetry():
    config = Config(**SETTINGS, symmetries=True)
    tasks = [make_task("t", "12 > 21; 34 > 43", "56 > 65")]
    drafts = drafts_of(config, tasks, [["57"]])
    assert sorted(query.symmetry for query in drafts.queries) == list(range(8))
    for d, query in enumerate(drafts.queries):
        batch = drafts.set.batch([d])
        shape = view_pairs([(query.draft, query.target)], query.symmetry, IDENTITY)[0][1].shape
        rows = batch.coords[batch.coords[:, 1] == 7][:, 2]
        assert int(rows.max()) == shape[0]     # `end` stands below the answer's last row


def test_recolored_documents_hold_no_pair_of_val():
    config = Config(**SETTINGS)
    task = make_task("t", "12 > 21; 34 > 43", "56 > 65")
    drafts = drafts_of(config, [task], [["57"]])
    query = drafts.queries[0]
    tables = [drafts.recolor(query, np.random.default_rng(seed)) for seed in range(5)]
    assert len({table.tobytes() for table in tables}) == 5
    drafts.banned = set()
    for table in tables:
        (pair,) = view_pairs([(task.test[0][0], query.target)], 0, table)
        drafts.banned.add(pair_key(*pair))
    for seed in range(5):
        again = drafts.recolor(query, np.random.default_rng(seed))
        assert not any(np.array_equal(again, table) for table in tables)


def test_a_draft_is_not_shown_where_its_pair_is_one_of_val():
    """Turned by a symmetry, and with no other colors to choose."""
    config = Config(**SETTINGS, symmetries=True, colors=False)
    task = make_task("t", "12 > 21; 34 > 43", "56 > 65")
    (pair,) = view_pairs([(task.test[0][0], task.test[0][1])], 3, IDENTITY)
    drafts = drafts_of(config, [task], [["57"]], banned={pair_key(*pair)})
    left = {query.symmetry for query in drafts.queries}
    for symmetry in range(8):
        (shown,) = view_pairs([task.test[0]], symmetry, IDENTITY)
        assert (symmetry in left) == (pair_key(*shown) != pair_key(*pair))
    assert 3 not in left and len(left) >= 4


@pytest.mark.parametrize("knobs", [dict(refine_right=1.0), dict(max_len=41, max_answer=40)])
def test_drafts_that_cannot_be_shown_are_an_error(knobs):
    config = Config(**{**SETTINGS, **knobs})
    task = make_task("t", "12 > 21; 34 > 43", "56 > 65")
    with pytest.raises(UserError, match="no draft can be shown.*--refine_right"):
        drafts_of(config, [task], [["57"]])


@pytest.mark.parametrize("demos", [1, 0])
def test_colors_that_only_outputs_show_are_kept_where_no_demonstration_tells_them(demos):
    config = Config(**{**SETTINGS, "demos": demos, "task_embed": not demos})
    task = make_task("a", "1 > 24; 3 > 24", "2 > 4")
    drafts = drafts_of(config, [task], [["5"]])
    tables = [drafts.recolor(drafts.queries[0], np.random.default_rng(i)) for i in range(100)]
    kept = {color for color in range(10) if all(table[color] == color for table in tables)}
    assert kept == ({0} if demos else {0, 2, 4})


def test_tasks_to_draft_are_new_and_have_ids_of_their_own(first):
    config, _ = load_config(flags(**{**SMALL, "refine_from": first,
                                     "oned_families": "1d_recolor_cnt"}))
    data = load_data(config)
    tasks = refine.tasks_to_draft(config, data, base_of(first))
    assert len(tasks) == len({task.id for task in tasks}) == 60
    pairs = {pair_key(*pair) for task in tasks for pair in known_pairs(task)}
    assert not pairs & data.banned


def test_a_planted_leak_is_caught(again, tmp_path, monkeypatch):
    """A task to draft whose query is one of val."""
    real = refine.Generated.documents

    def planted(self, step):
        if self.name == "refine" and step == 3:
            config, _ = load_config(flags(**SMALL))
            yield known_pairs(load_data(config).val[0]), 0
        yield from real(self, step)
    monkeypatch.setattr(refine.Generated, "documents", planted)
    with pytest.raises(UserError, match="task oned/refine-3 has a query that.*val.*leak"):
        again()
    assert not (tmp_path / "run" / "refine" / "ckpt.pt").exists()


def test_no_pair_is_drafted_that_the_network_was_trained_on_cell_for_cell(first):
    """Where tasks are narrow and many, chance makes the same pairs again."""
    narrow = {**SMALL, "oned_families": "1d_fill", "oned_max_width": 7, "refine_from": first,
              "oned_lift": 0.0, "oned_eval": 1, "refine_tasks": 100}
    config, _ = load_config(flags(**{**narrow, "train": "oned#30"}))
    data = load_data(config)
    trained = {pair_key(*pair) for task in data.train for pair in known_pairs(task)}

    def drafted(keys):
        base = {**base_of(first), "trained_keys": [key.hex() for key in keys]}
        tasks = refine.tasks_to_draft(config, data, base)
        return {pair_key(*pair) for task in tasks for pair in known_pairs(task)}
    assert drafted([]) & trained
    assert not drafted(trained) & trained


def test_it_solves_nothing_without_a_task(again, tmp_path):
    again(refine_steps=1)
    with pytest.raises(UserError, match="nothing to solve.*--tasks="):
        again(eval_only=True, test="")
    assert [path.name for path in (tmp_path / "run" / "refine").iterdir() if path.is_dir()] == []


HOLDOUTS = [("0/2", 0), ("0/2", 1), ("", 0)]


@pytest.mark.parametrize("holdout, demos", HOLDOUTS)
def test_pairs_that_holdout_keeps_out_are_drafted(tmp_path, monkeypatch, holdout, demos):
    """A network drafts the pairs that it never saw; of one that saw all, drafts are refused."""
    monkeypatch.chdir(ROOT)
    files = []
    for i in range(2):
        tasks = [t._replace(id=f"{i}{t.id}") for t in flip_tasks(8, demos=4, seed=i)]
        files.append(write_tasks(tmp_path / f"{i}.json", tasks))
    file, val = files
    knobs = {**SMALL, "train": file, "val": val, "test": val, "demos": demos, "task_embed": True,
             "max_steps": 30, "max_len": 128, "eval_every": 30, "holdout": holdout,
             "out_dir": tmp_path / "run"}
    train.main(flags(**knobs))
    if not holdout:
        with pytest.raises(UserError, match="demos = 0: .* train it with --holdout"):
            refine.main(flags(**knobs))
        return
    other = write_tasks(tmp_path / "other.json", flip_tasks(2, seed=9))
    changed = "trained with another config: test was .*other.json"
    with pytest.raises(UserError, match=changed):                       # its guard knew other tasks
        refine.main(flags(**{**knobs, "test": other}))
    with pytest.raises(UserError, match="holdout = '1/2' keeps pairs out, and .*'0/2'"):
        train.main(flags(**{**knobs, "holdout": "1/2", "out_dir": tmp_path / "on",
                            "init_from": tmp_path / "run" / "ckpt.pt"}))

    config, _ = load_config(flags(**knobs))
    data = load_data(config)
    tasks = refine.tasks_to_draft(config, data, base_of(tmp_path / "run" / "ckpt.pt"))
    drawn = {pair_key(*pair) for task in tasks for pair in task.test}
    kept = {pair_key(*pair) for task in tasks for pair in task.train}
    own = [task for task in data.train if task.id not in data.protected]
    expected = set()
    for task in own:
        out = [pair for pair in known_pairs(task) if held_out(pair, holdout)]
        if len(out) < len(known_pairs(task)):
            expected |= {pair_key(*pair) for pair in out}
    assert 0 < len(drawn) and drawn == expected and not drawn & kept and not drawn & data.banned
    metrics = refine.main(flags(**knobs))
    assert metrics["tasks"] == 8 and (tmp_path / "run" / "refine" / "submission.json").exists()


def test_early_snapshots_draft_the_pairs_that_were_trained_on(tmp_path, monkeypatch):
    """Demonstrations of val and test too, and none of their test pairs.

    To resume, or to solve a file, takes no snapshot.
    """
    monkeypatch.chdir(ROOT)
    tasks = [t._replace(id=f"t{i}") for i, t in enumerate(flip_tasks(8, demos=4, seed=0))]
    queried = flip_tasks(6, demos=4, seed=1)
    file, val = write_tasks(tmp_path / "a.json", tasks), write_tasks(tmp_path / "b.json", queried)
    knobs = {**SMALL, "train": file, "val": val, "test": val, "demos": 0, "task_embed": True,
             "max_steps": 90, "max_len": 128, "eval_every": 30, "keep_every": 30,
             "refine_snapshots": "30,60", "out_dir": tmp_path / "run"}
    train.main(flags(**knobs))
    config, _ = load_config(flags(**knobs))
    data = load_data(config)
    drafted = refine.tasks_to_draft(config, data, base_of(tmp_path / "run" / "ckpt.pt"))
    pairs = {pair_key(*pair) for task in drafted for pair in task.test}
    answers = {pair_key(*pair) for task in queried for pair in task.test}
    shown = {pair_key(*pair) for task in queried for pair in task.train}
    assert {pair_key(*pair) for pair in data.test_pairs} == answers and not pairs & answers
    assert pairs == shown | {pair_key(*pair) for task in tasks for pair in known_pairs(task)}
    assert {task.id for task in drafted[:6]} == {task.id for task in queried}    # first
    few = refine.tasks_to_draft(dataclasses.replace(config, refine_tasks=9), data, {})
    assert len(few) == 3                       # of four pairs each

    metrics = refine.main(flags(**knobs))
    found = checkpoint(tmp_path / "run" / "refine")
    assert metrics["tasks"] == 6 and found["drafts"]
    ids = {drafted[n].id for n, _, _ in found["drafts"]}
    assert ids & {task.id for task in queried} and ids & {task.id for task in tasks}
    text = (tmp_path / "run" / "refine" / "log.txt").read_text()
    assert "step_000030.pt: fails" in text and "step_000060.pt: fails" in text
    for path in (tmp_path / "run").glob("step_*.pt"):
        path.unlink()
    refine.main(flags(**knobs, resume=True))
    assert checkpoint(tmp_path / "run" / "refine")["drafts"] == found["drafts"]
    refine.main(flags(**knobs, eval_only=True))


SNAPSHOTS = {                                  # knobs: the error
    "10": (dict(demos=1), "refine_snapshots is for rules in the weights"),
    "15": ({}, "step_000015.pt: no such checkpoint; name steps .* --keep_every=N"),
    "10,late": ({}, "refine_snapshots = '10,late': name steps, joined by commas"),
}


@pytest.mark.parametrize("steps", SNAPSHOTS)
def test_what_is_no_snapshot_is_an_error(tmp_path, monkeypatch, steps):
    monkeypatch.chdir(ROOT)
    more, message = SNAPSHOTS[steps]
    file = write_tasks(tmp_path / "a.json", flip_tasks(8, demos=4))
    knobs = {**SMALL, "train": file, "val": "", "test": "", "demos": 0, "task_embed": True,
             "max_steps": 20, "max_len": 128, "keep_every": 10, "out_dir": tmp_path / "run", **more}
    train.main(flags(**knobs))
    with pytest.raises(UserError, match=message):
        refine.main(flags(**knobs, refine_snapshots=steps))
    assert not (tmp_path / "run" / "refine" / "ckpt.pt").exists()


def test_a_snapshot_of_another_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("run", "other"):
        file = write_tasks(tmp_path / f"{name}.json", flip_tasks(8, demos=4, seed=len(name)))
        knobs = {**SMALL, "train": file, "val": "", "test": "", "demos": 0, "task_embed": True,
                 "max_steps": 20, "max_len": 128, "keep_every": 10}
        train.main(flags(**knobs, out_dir=tmp_path / name))
    (tmp_path / "run" / "step_000010.pt").replace(tmp_path / "other" / "step_000010.pt")
    with pytest.raises(UserError, match="step_000010.pt: of another run than .*other.ckpt.pt"):
        refine.main(flags(**knobs, refine_snapshots="10", out_dir=tmp_path / "other"))


# ------------------------------------------------------------------------------------------------
# Using it


def test_what_became_of_drafts_is_counted_by_hand(monkeypatch):
    tasks = [make_task(f"t{i}", "1 > 1", "1 > 1234567") for i in range(5)]
    right, near, far = grid("1234567"), grid("1234560"), grid("0000000")
    drafts = [Prediction(f"t{i}", 0, 0, draft, -1.0)
              for i, draft in enumerate([right, near, far, None, right])]
    queries = refine.with_drafts(make_queries(tasks, 1, Config()), drafts)
    read = [Prediction(f"t{i}", 0, 0, refined, -1.0)
            for i, refined in enumerate([near, right, near, None])]    # the last is not read
    monkeypatch.setattr(refine, "read_drafts", lambda refiner, queries: read)
    m = refine.compare(queries, refine.correct(None, queries))
    assert (m["fixed"], m["broken"], m["near_misses"], m["near_misses_fixed"]) == (1, 1, 1, 1)
    assert (m["single_before"], m["single_after"], m["wrong_shapes"]) == (0.4, 0.4, 1)
    assert m["cells_after"] == pytest.approx((6 / 7 + 1 + 6 / 7 + 0 + 1) / 5)


def test_a_draft_that_cannot_stand_is_not_read():
    """One that is too long, or leaves the canvas, or is no grid."""
    _, model, _ = grown()
    queries = [query_of(TASK, draft)._replace(view=number) for number, draft
               in enumerate(["1" * 9, None, "12", " ".join(["123456"] * 7)])]
    found = refine.read_drafts(predictor(model), queries)
    assert [prediction.view for prediction in found] == [2]


def test_a_run_and_what_it_leaves(again, tmp_path):
    metrics = again()
    folder = tmp_path / "run" / "refine"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "log.txt", "metrics.jsonl", "ckpt.pt", "best.pt", "submission.json",
            "report.html"} <= names
    assert metrics["tasks"] == 12 and metrics["times_scored"] == 1
    for key in ("before", "without_draft", "after"):
        assert 0 <= metrics[f"pass1_{key}"] <= metrics[f"pass2_{key}"] <= metrics[f"oracle_{key}"]
    found = checkpoint(folder)
    assert found["network"] == "Refiner" and found["step"] == 254
    assert [m["step"] for m in records(folder, "val")] == [252, 254]
    later = again(eval_only=True)
    changing = {"minutes", "seconds", "train_minutes", "times_scored"}
    assert {key: later[key] for key in later.keys() - changing} \
        == {key: metrics[key] for key in metrics.keys() - changing}
    assert later["times_scored"] == 2
    mine = write_tasks(tmp_path / "mine.json", [make_task("a", "1 > 1; 22 > 22", "33; 4")])
    before = (folder / "submission.json").read_bytes()
    assert "tasks" not in again(eval_only=True, tasks=mine)
    assert len(json.loads((folder / "mine" / "submission.json").read_text())["a"]) == 2
    assert (folder / "submission.json").read_bytes() == before
    assert json.loads((folder / "mine" / "config.json").read_text())["given"]["eval_only"]


def test_solving_takes_over_the_knobs_of_the_refinement(again, first, tmp_path):
    """Not those of train.py's run, which had others."""
    knobs = dict(views=3, rerank_views=2, refine_steps=1)
    again(**knobs)
    folder = tmp_path / "run" / "refine"
    refine.main(flags(eval_only=True, out_dir=tmp_path / "run", refine_from=first))
    found = json.loads((folder / "eval.json").read_text())
    assert {name: found[name] for name in knobs} == knobs
    assert (folder / "log.txt").read_text().count("; 1 steps more, of") == 2
    before, after = records(folder, "test")
    assert after["views"] == before["views"] == 3 and after["pass2_after"] == before["pass2_after"]


def test_before_refinement_is_what_train_scored(again, first):
    metrics = again(refine_steps=0)
    (alone,) = records(first.parent, "test")
    assert metrics["pass1_before"] == alone["pass1"] and metrics["pass2_before"] == alone["pass2"]
    assert metrics["pass2_without_draft"] == alone["pass2"]             # nothing was trained yet
    assert metrics["single_before"] == alone["pass1_single"]


def test_attempts_are_reranked_where_rerank_views_asks(again, tmp_path):
    votes = again("votes", views=4)
    reranked = again("reranked", views=4, rerank_views=3)
    for key in ("pass1", "pass2"):
        for name in ("before", "after"):
            assert reranked[f"{key}_by_votes_{name}"] == votes[f"{key}_{name}"]
    assert "pass1_by_votes_after" not in votes


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_resume_equals_uninterrupted(again, tmp_path, monkeypatch, how):
    class Killed(Exception):
        pass

    def act():
        if how == "interrupted":
            signal.raise_signal(signal.SIGTERM)
        else:
            raise Killed
    again(out="whole")
    real, calls = Optimizer.step, []

    def step(self, lr):
        calls.append(1)
        if len(calls) == 3:
            act()
        real(self, lr)
    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", step)
        with pytest.raises(Killed if how == "killed" else SystemExit):
            again(out="parts")
    again(out="parts", resume=True)
    whole, parts = (checkpoint(tmp_path / name / "refine") for name in ("whole", "parts"))
    for key in ("training", "model", "optimizer", "step", "best", "drafts", "base"):
        assert equal(whole[key], parts[key]), key


def test_a_network_of_another_base_is_refused(again, first, tmp_path):
    again()
    kept = first.read_bytes()
    other = torch.load(first, weights_only=True)
    other["model"]["head.weight"] += 0.01
    try:
        torch.save(other, first)
        for how in ("resume", "eval_only"):
            with pytest.raises(UserError, match="learned to correct another network.*--overwrite"):
                again(**{how: True})
    finally:
        first.write_bytes(kept)


# ------------------------------------------------------------------------------------------------
# Errors

ERRORS = {
    "no checkpoint": (dict(refine_from="nowhere.pt"),
                      "nowhere.pt: no such checkpoint.*train.py"),
    "another encoding": (dict(encoding="rope"),
                         "another config: encoding was 'quadtree' and is 'rope'"),
    "another config": (dict(oned_max_width=8), "oned_max_width was 9 and is 8.*refine_from"),
    "no such file": (dict(refine_train="nowhere.json"), "nowhere.json: no such file"),
    "other tasks": (dict(test="mine.json"), "trained with another config: test was 'oned'"),
    "eval before training": (dict(eval_only=True), "no such checkpoint.*without --eval_only"),
    "resume before training": (dict(resume=True), "no such checkpoint.*refine.py without"),
    "init_from": (dict(init_from="some.pt"), "init_from = 'some.pt'.*--refine_from"),
    "weights only": (dict(refine_from="best"), "holds weights only.*--refine_from="),
    "views": (dict(refine_views=0), "refine_views = 0 is out of its range"),
    "right": (dict(refine_right=1.5), "refine_right = 1.5 is out of its range"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_is_named(again, first, tmp_path, case):
    knobs, message = ERRORS[case]
    if knobs.get("refine_from") == "best":
        knobs = dict(refine_from=first.with_name("best.pt"))
    with pytest.raises(UserError, match=message) as error:
        again(**knobs)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("run/refine/*.pt"))


@pytest.mark.parametrize("right, message", [
    (True, "of 60 tasks none is answered with a wrong grid"),
    (False, "no answer to 60 tasks is a grid, .*run train.py for more steps"),
])
def test_nothing_to_learn_from_is_an_error(again, monkeypatch, right, message):
    def answers_to(tasks, drafter, path):
        return [(0, 0, tasks[0].test[0][1].tolist())] * right
    monkeypatch.setattr(refine, "answers_to", answers_to)
    with pytest.raises(UserError, match=message):
        again()


def test_a_finished_run_is_not_overwritten(again, tmp_path):
    again()
    before = (tmp_path / "run" / "refine" / "ckpt.pt").read_bytes()
    with pytest.raises(UserError, match="already holds a run.*--overwrite"):
        again()
    with pytest.raises(UserError, match="no such file"):
        again(overwrite=True, refine_train="nowhere.json")
    assert (tmp_path / "run" / "refine" / "ckpt.pt").read_bytes() == before


def test_networks_are_not_taken_for_each_other(again, first, tmp_path):
    again()
    with pytest.raises(UserError, match="holds a Refiner, and a GPT is needed"):
        again(out="b", refine_from=tmp_path / "run" / "refine" / "ckpt.pt")
    with pytest.raises(UserError, match="holds a GPT, and a Refiner is needed"):
        again(eval_only=True, init_from=first)


def test_the_demonstrations_of_val_and_test_are_rehearsed(tmp_path, monkeypatch):
    """Where rules live in the weights, they go on being trained beside the drafts."""
    monkeypatch.chdir(ROOT)
    file = write_tasks(tmp_path / "train.json", flip_tasks(8, demos=4))
    tasks = [task._replace(id=f"v{task.id}") for task in flip_tasks(4, seed=1)]
    val = write_tasks(tmp_path / "val.json", tasks)
    knobs = {**SMALL, "train": file, "val": val, "test": val, "demos": 0, "task_embed": True,
             "max_steps": 60, "max_len": 64, "holdout": "0/2", "out_dir": tmp_path / "run"}
    train.main(flags(**knobs))
    seen, real = set(), train.ForwardBackward.__call__

    def call(self, step, micro_tokens):
        seen.update(step.documents.task_view[:, 0].tolist())
        return real(self, step, micro_tokens)
    monkeypatch.setattr(train.ForwardBackward, "__call__", call)
    refine.main(flags(**knobs))
    ids = checkpoint(tmp_path / "run")["task_ids"]
    asked = {row for row, (name, _) in enumerate(ids, 1) if name.startswith("v")}
    assert len(asked) == 4 and asked <= seen


def test_a_config_of_refinement_is_that_of_the_base_network(first):
    """warmup and the end are of the run that goes on."""
    config, _ = load_config(flags(**{**SMALL, "refine_from": first}))
    config, base = refine.load_base(config, {})
    assert base["path"] == first and base["step"] == 250
    config, found = refine.load_refined(config, {}, base)
    assert found is None and config.max_steps == 250 + config.refine_steps == 254
    assert config.warmup == 0 and config.decay == pytest.approx(4 / 254)
    assert config.out_dir.endswith("/refine")


def test_a_checkpoint_and_a_file_are_enough_to_solve(again, first, tmp_path):
    """The base network is found one folder up, and has the config."""
    again()
    folder = tmp_path / "run"
    shutil.copy(first, folder / "ckpt.pt")
    tasks = write_tasks(tmp_path / "mine.json", flip_tasks(2))
    expected = again(eval_only=True, tasks=tasks)
    found = refine.main(flags(eval_only=True, init_from=folder / "refine" / "ckpt.pt", tasks=tasks,
                              out_dir=tmp_path / "other", device="cpu"))
    assert found["pass2_after"] == expected["pass2_after"] and found["tasks"] == 2
    answers = [(tmp_path / out / "refine" / "mine" / "submission.json").read_text()
               for out in ("run", "other")]
    assert answers[0] == answers[1]


def test_damaged_drafts_are_one_line(again, tmp_path):
    again()
    path = tmp_path / "run" / "refine" / "ckpt.pt"
    found = checkpoint(path.parent)
    for drafts in (None, 3, [], [3], [(10**6, 0, [[1]])], [(0, 9, [[1]])],
                   [(0, 0, [[1], [1, 2]])], [(0, 0, [[77]])]):
        torch.save({**found, "drafts": drafts}, path)
        with pytest.raises(UserError, match="ckpt.pt: its drafts are damaged.*--overwrite"):
            again(resume=True)


def test_drafts_of_other_tasks_are_refused(again, monkeypatch):
    """They name tasks by number; other code may draw others."""
    again()
    real = refine.tasks_to_draft
    monkeypatch.setattr(refine, "tasks_to_draft", lambda *args: real(*args)[::-1])
    with pytest.raises(UserError, match="hold other tasks now, or in another order"):
        again(resume=True)
