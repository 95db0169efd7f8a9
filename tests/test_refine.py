"""The refinement network: what it is at the start, what it may see, where its drafts come from, that it repairs, and its errors."""
import dataclasses
import json
import signal
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import refine
import train
from config import Config, UserError
from conftest import ROOT, TINY, checkpoint, equal, flags, flip_tasks, grid, make_task, records, tiny_shape, write_tasks
from data import arc, oned
from data.batch import held_out
from data.exam import questions
from data.score import Draft, as_draft, shares, vote
from model import Answer
from optim import Optimizer

SMALL = {**TINY, "max_steps": 250, "oned_eval": 12, "refine_tasks": 60, "refine_steps": 4, "refine_layers": 1, "eval_every": 2}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A folder with a network that solves a part of its tasks."""
    folder = tmp_path_factory.mktemp("first")
    train.main(flags(**{**SMALL, "eval_every": 250}, out_dir=folder))
    return folder / "ckpt.pt"


@pytest.fixture
def again(first, tmp_path, monkeypatch):
    """again(key=value) is refine.main on that network's drafts, in tmp_path/run/refine."""
    monkeypatch.chdir(ROOT)
    return lambda out="run", **knobs: refine.main(flags(**{**SMALL, "refine_from": first, "out_dir": tmp_path / out, **knobs}))


def planted(config, seed, count, faults=None):
    """Generated tasks with a damaged answer as draft, log-probability -0.1 and vote share 0.5: Shown."""
    rng, tasks = np.random.default_rng(seed), oned.draw_tasks(seed, count, ["1d_fill"], (7, 9), 0)
    view = 0, np.arange(arc.VOCAB)
    drafts = [refine.damage(rng, *task.test[0]) for task in tasks] if faults is None else [faults] * count
    sure = lambda draft: np.stack([np.full(draft.shape, -0.1), np.full(draft.shape, 0.5)])
    return [refine.shown(config, task, 0, view, 0, draft, sure(draft), refine.DAMAGED) for task, draft in zip(tasks, drafts)]


def as_drafts(shown, config):
    return refine.Drafts(refine.Drafts.pack(shown, config), config, torch.device("cpu"))


def networks():
    """A refiner and its trunk, as they are before training."""
    torch.manual_seed(0)
    shape = tiny_shape(frame=16, max_len=320)
    return refine.Refiner(shape, shape)


def setup(count=6):
    config = Config(**{key: value for key, value in TINY.items() if key != "device"})
    torch.manual_seed(0)
    drafts, model = as_drafts(planted(config, 5, count), config), networks()
    batch, cells, sure, answers = drafts.batch(drafts.documents([(d, None, np.arange(arc.VOCAB)) for d in range(count)]))
    return config, drafts, model, (batch, cells, sure, model.read(batch, cells), answers)


# --------------------------------------------------------------------------------------------------------------------
# The network

def test_untrained_it_returns_the_draft():
    config, drafts, model, (batch, cells, sure, states, _) = setup()
    for guess, colors, *_ in model(batch, cells, sure, states, 3):
        assert torch.equal(guess, batch.tokens[cells]) and torch.equal(colors.argmax(-1), guess)
    found = refine.refine(model, drafts, [(0, np.arange(arc.VOCAB))] * 6, config, torch.device("cpu"))
    for shown, c in zip(planted(config, 5, 6), found):
        assert refine.decide(c, 0.0) == 0 and all((g == shown.found).all() for g in c.grids)


def test_what_it_is_told_of_a_draft_is_heard():
    """Log-probability and vote share each change what it says of colours and of the whole; without the draft they are not told."""
    _, _, model, (batch, cells, sure, states, _) = setup()
    torch.nn.init.normal_(model.head["color"].weight)
    say = lambda sure, blind=False: torch.cat([part.ravel() for part in model(batch, cells, sure, states, 1, blind)[0][1:]])
    for of in range(2):
        other = sure.clone()
        other[of] *= 0.5
        assert (say(other) != say(sure)).all() and torch.equal(say(other, True), say(sure, True))


def test_a_cell_sees_all_of_its_document_and_nothing_else():
    _, _, model, (batch, cells, sure, states, _) = setup()
    torch.nn.init.normal_(model.head["color"].weight)
    out = model(batch, cells, sure, states, 1)[0][1]
    tables = []
    real = model.token.forward
    model.token.forward = lambda tokens: tables.append(real(tokens).detach().requires_grad_()) or tables[-1]
    out = model(batch, cells, sure, states, 1)[0][1]
    one = torch.nonzero(batch.doc[cells] == 2)[0, 0]           # the first cell of the third draft
    (gradient,) = torch.autograd.grad(out[one].square().sum(), tables)
    assert torch.equal(gradient.abs().sum(1) > 0, batch.doc == 2)


def test_gradients_reach_every_loop():
    _, drafts, model, (batch, cells, sure, states, answers) = setup()
    torch.nn.init.normal_(model.head["color"].weight)
    for loop in range(3):
        model.zero_grad()
        guess, colors, wrong, right = model(batch, cells, sure, states, 3)[loop]
        (torch.nn.functional.cross_entropy(colors, answers) + wrong.square().mean() + right.square().mean()).backward(retain_graph=True)
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name.startswith(("blocks", "head", "facts")))


def test_later_loops_read_their_own_guess_detached():
    _, _, model, (batch, cells, sure, states, _) = setup()
    torch.nn.init.normal_(model.head["color"].weight, std=3.0)
    loops = model(batch, cells, sure, states, 3)
    for before, after in zip(loops, loops[1:]):
        assert torch.equal(after[0], before[1].argmax(-1)) and not after[0].requires_grad
    assert not torch.equal(loops[0][0], loops[1][0])


def test_it_learns_to_repair_errors_it_has_never_seen():
    """One cell of each answer is repainted; other tasks, other colours and other places than in training."""
    def faults(seed, count):
        rng, out = np.random.default_rng(seed), []
        for s in planted(config, seed, count):
            found, c = s.answer.copy(), rng.integers(s.answer.shape[1])
            found[0, c] = (found[0, c] + rng.integers(1, 10)) % 10
            out.append(s._replace(found=found))
        return out
    config = dataclasses.replace(setup()[0], max_steps=200, refine_corrupt=1.0, refine_right=0.0)
    lesson, model, device = as_drafts(faults(1, 600), config), networks(), torch.device("cpu")
    optimizer = Optimizer(model, config)
    for item in lesson.stream(0, 0):
        refine.learn(config, model, lesson, None, device, item, 640)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(1e-2)
    unseen = faults(2, 200)
    with refine.averaged(model, optimizer):
        found = refine.refine(model, as_drafts(unseen, config), [(0, np.arange(arc.VOCAB))] * 200, config, device)
    fixed = [bool((c.grids[refine.decide(c, 0.0)] == s.answer).all()) for c, s in zip(found, unseen)]
    assert np.mean(fixed) > 0.5


# --------------------------------------------------------------------------------------------------------------------
# Drafts

def test_vote_shares_by_hand():
    """Of four views three drafted two cells, of which two agree on the second; one drafted no grid; a sample stands for the plain view."""
    texts = ["12", "13", "13", None, "1 2"]
    drafts = [Draft("t", 0, v, text and grid(text), -1) for v, text in enumerate(texts[:4])]
    drafts += [Draft("t", 1, 0, grid("77"), -1), Draft("t", 0, 0, grid("13"), -1), Draft("t", 0, 0, grid("1 3"), -1)]
    asked = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 0), (0, 0, 0), (0, 0, 0)]
    found = [d.share if d.share is None else d.share.tolist() for d in shares(drafts, asked)]
    assert found == [[[0.75, 0.25]], [[0.75, 0.5]], [[0.75, 0.5]], None, [[1, 1]], [[0.75, 0.75]], [[0.25], [0.25]]]


def test_vote_shares_of_views(monkeypatch):
    """Drafts are compared turned back: those of answers known by heart agree in all views. One colour of one view wrong: its cells are the minority."""
    config, _ = train.knobs.load(flags(**{**SMALL, "views": 4, "symmetries": True}))
    task, wrong = make_task("t", "12 > 34", "12 30 > 12 34"), []

    def draft(model, tasks, config, *_, **__):
        asked = questions(tasks, config.views, config)
        answers = [arc.encode_grid(arc.transform(grid("12 35" if v in wrong else "12 34"), s)) for _, _, v, s, _ in asked]
        return [as_draft("t", i, v, s, table, Answer(table[a].astype(int), np.zeros(len(a) + 1))) for (_, i, v, s, table), a in zip(asked, answers)], asked, 0
    monkeypatch.setattr(refine, "draft", draft)
    share = lambda **knobs: [d.share.tolist() for d in refine.drafts_of(None, [task], dataclasses.replace(config, **knobs), {}, None, print)[0]]
    assert share() == 4 * [[[1, 1], [1, 1]]]
    wrong.append(2)
    assert share() == [[[1, 1], [1, 0.25 if v == 2 else 0.75]] for v in range(4)] and share(views=1) == [[[1, 1], [1, 1]]]


def test_what_is_learned_from_has_shares(again, tmp_path):
    """Drafts under refine_views views, and samples: shares in quarters, the least that of a draft that stands alone; those of damaged answers are
    some of these."""
    again()
    data = torch.load(tmp_path / "run" / "refine" / "drafts.bin", weights_only=True)["data"]
    drafts = refine.Drafts(data, Config(**{key: value for key, value in TINY.items() if key != "device"}), torch.device("cpu"))
    for kinds in ((refine.WRONG, refine.RIGHT), (refine.DAMAGED,)):
        which = [d for d, doc in enumerate(drafts.docs) if doc[4] in kinds]
        _, _, (_, share), _ = drafts.batch(drafts.documents([(d, None, np.arange(arc.VOCAB)) for d in which]))
        assert set(share.tolist()) == {0.25, 0.5, 0.75, 1.0}

@pytest.mark.parametrize("tokens, mended", [([1, 2, 11, 3, 4, 11], "12 34"), ([1, 2, 11, 3, 11, 5, 6, 7, 11], "12 30 56"), ([1, 2, 11, 3, 4], "12 34"),
                                            ([1, 11, 2, 3, 11], "1 2"), ([1, 10, 2], "12"), ([11], None), ([], None)])
def test_a_broken_rectangle_is_repaired_by_one_rule(tokens, mended):
    answer = refine.np.array(tokens, np.int64), np.full(len(tokens) + 1, -0.5)
    draft = as_draft("t", 0, 0, 0, np.arange(arc.VOCAB), Answer(*answer), mend=True)
    assert draft.grid is None if mended is None else np.array_equal(draft.grid, grid(mended)) and draft.sure.shape == draft.grid.shape


def test_a_mended_draft_that_became_too_long_is_left_out():
    config = Config(max_len=320, batch_tokens=640, max_answer=8)
    task = make_task("t", "1 > 1", "1 > 2")
    drafts = [Draft("t", 0, 0, grid(text), -1.0, np.zeros(grid(text).shape), 1.0, np.ones(grid(text).shape)) for text in ("123 456", "12 34", "1234567", "1 2 3")]
    asked = [(0, 0, 0, 0, np.arange(arc.VOCAB))] * 4
    assert refine.as_shown(config, [task], drafts, asked, {}, 4)[1] == [1, 3] and refine.as_shown(config, [task], drafts, asked, {}, 3)[1] == [1]


def test_documents_hold_the_draft_and_never_the_answer():
    config, drafts, _, (batch, cells, sure, states, answers) = setup()
    made = planted(config, 5, 6)
    assert batch.tokens[cells].tolist() == [int(c) for s in made for c in s.found.ravel()]
    assert answers.tolist() == [int(c) for s in made for c in s.answer.ravel()]
    assert torch.allclose(sure, torch.tensor([[-0.1], [0.5]]))
    blank = as_drafts([s._replace(answer=None) for s in made], config)
    other = blank.batch(blank.documents([(d, None, np.arange(arc.VOCAB)) for d in range(6)]))
    assert torch.equal(other[0].tokens, batch.tokens) and (other[3] == arc.END).all()


def test_cells_are_those_of_the_drafts():
    """Of some documents of several, recoloured, in another order: where `query` asks for a colour; found without looking at the device's tokens."""
    config, drafts, *_ = setup()
    rng = np.random.default_rng(0)
    docs = drafts.documents([(d, None, arc.color_table(rng)) for d in (3, 1, 4, 2, 0)]).take([4, 0, 2])
    batch, cells, sure, answers = drafts.batch(docs)
    inside = torch.zeros(len(batch.tokens), dtype=torch.bool)
    inside[1:] = batch.query[:-1].bool()                       # `query` stands one before the token it asks for
    assert torch.equal(cells, torch.nonzero(inside & (batch.tokens < arc.COLORS))[:, 0]) and len(cells) > 20
    assert sure.shape == (2, len(cells)) and (sure[1] == 0.5).all() and (answers < arc.COLORS).all()


def test_views_turn_back():
    config = Config(max_len=320, batch_tokens=640, max_answer=40)
    task = make_task("t", "123 456 > 12; 1 > 1", "123 456 > 145 236")
    rng = np.random.default_rng(0)
    draft = grid("145 230")
    for symmetry in range(8):
        table = arc.color_table(rng)
        sure = np.stack([-draft.astype(float), draft / 10])    # as many as there are colours, to see where they go
        part = refine.shown(config, task, 0, (symmetry, table), 0, draft, sure)
        drafts = as_drafts([part], config)
        _, _, (logp, share), _ = drafts.batch(drafts.documents([(0, None, np.arange(arc.VOCAB))]))
        assert np.array_equal(arc.transform(draft, symmetry).ravel(), -logp) and torch.allclose(share, -logp / 10)
        found = refine.refine(networks(), drafts, [(symmetry, table)], config, torch.device("cpu"))
        assert np.array_equal(found[0].grids[-1], draft) and part.kind == refine.WRONG


def test_val_is_of_as_many_views_as_drafts_to_learn_from(again, monkeypatch):
    """In validation drafts are of refine_views = 4 views; in the end, of `views` = 2."""
    real, seen = refine.refined, []
    monkeypatch.setattr(refine, "refined", lambda *args: seen.append(args[2]) or real(*args))
    again()
    *val, test = [({d.view for d in drafts}, set(np.concatenate([d.share.ravel() for d in drafts if d.grid is not None]))) for drafts in seen]
    assert len(val) == 2 and all(views == {0, 1, 2, 3} and 0.75 in shares and shares <= {0.25, 0.5, 0.75, 1} for views, shares in val)
    assert test[0] == {0, 1} and test[1] <= {0.5, 1}


def test_a_planted_leak_is_caught(again, tmp_path, monkeypatch):
    """A task to draft whose query is one of val."""
    real = refine.lessons

    def planted(config, data, *rest):
        tasks, seen = real(config, data, *rest)
        return [*tasks[:3], data["val"][0], *tasks[3:]], seen
    monkeypatch.setattr(refine, "lessons", planted)
    with pytest.raises(UserError, match="task 1d_fill/val-0 has a query that.*val.*leak"):
        again()
    assert not (tmp_path / "run" / "refine" / "ckpt.pt").exists()


def test_drafting_tasks_are_new_and_guarded(first):
    config, _ = train.knobs.load(flags(**{**SMALL, "refine_from": first, "oned_families": "1d_recolor_cnt"}))
    data = train.load_data(config)
    known = {arc.pair_key(*p) for task in data["val"] + data["test"] for p in refine.known_pairs(task)}
    fresh, seen = refine.lessons(config, data)
    old, _ = refine.lessons(dataclasses.replace(config, refine_train="seen"), data)
    assert len(fresh) == 60 and seen == known
    pairs = lambda tasks: {arc.pair_key(*p) for task in tasks for p in refine.known_pairs(task)}
    assert not pairs(fresh) & known and not pairs(fresh) & pairs(old)
    refine.check_unseen(fresh, known, first)


@pytest.mark.parametrize("demos", [1, 0])
def test_colours_that_only_outputs_show_are_kept_where_no_demonstration_tells_them(demos):
    config = Config(demos=demos, task_embed=not demos)
    task = make_task("a", "1 > 24; 3 > 24", "2 > 4")
    shown = refine.shown(config, task, 0, (0, np.arange(arc.VOCAB)), 1, task.test[0][1], np.zeros((2, 1, 1)))
    tables = [as_drafts([shown], config).recolored(0, np.random.default_rng(i)) for i in range(100)]
    assert shown.fixed == ({0, 2, 4} if not demos else {0})
    assert {color for color in range(10) if all(table[color] == color for table in tables)} == shown.fixed


def test_recoloured_documents_hold_no_pair_of_val():
    config, drafts, _, _ = setup()
    task = planted(config, 5, 6)[0]
    rng = np.random.default_rng(1)
    tables = [arc.color_table(rng) for _ in range(5)]
    drafts.banned = {table[arc.encode_pair((task.query, task.answer))[0]].astype(np.uint8).tobytes() for table in tables}
    rng = np.random.default_rng(1)
    assert not any(np.array_equal(drafts.recolored(0, rng), table) for table in tables)


@pytest.mark.parametrize("fold, demos", [("0/2", 0), ("0/2", 1), ("", 0)])
def test_pairs_held_out_by_fold_are_drafted(tmp_path, monkeypatch, fold, demos):
    """A network drafts the pairs that it never saw; of one that saw all, drafts are refused."""
    monkeypatch.chdir(ROOT)
    file, val = (write_tasks(tmp_path / f"{i}.json", [t._replace(id=f"{i}{t.id}") for t in flip_tasks(8, demos=4, seed=i)]) for i in range(2))
    knobs = {**SMALL, "train": file, "val": val, "test": val, "demos": demos, "task_embed": True, "max_steps": 30, "max_len": 128, "eval_every": 30, "fold": fold,
             "out_dir": tmp_path / "run"}
    train.main(flags(**knobs))
    knobs.update(refine_corrupt=1, refine_right=0)
    if not fold:
        with pytest.raises(UserError, match="demos = 0: .* train it with --fold"):
            refine.main(flags(**knobs))
        return
    other = write_tasks(tmp_path / "other.json", flip_tasks(2, seed=9))
    with pytest.raises(UserError, match="trained with another config: test was .*other.json"):      # its guard knew other tasks
        refine.main(flags(**{**knobs, "test": other}))
    with pytest.raises(UserError, match="2 tasks, flip0 the first, were not trained on"):
        refine.check_known(train.knobs.load(flags(**{**knobs, "demos": 0}))[0], flip_tasks(2), {})
    with pytest.raises(UserError, match="fold = '1/2' holds pairs out, and .*ckpt.pt .fold = '0/2'. has trained on them"):
        train.main(flags(**{**knobs, "fold": "1/2", "out_dir": tmp_path / "on", "init_from": tmp_path / "run" / "ckpt.pt"}))
    config, _ = train.knobs.load(flags(**knobs))
    data = train.load_data(config)
    keys = lambda tasks: {arc.pair_key(*p) for t in tasks for p in refine.known_pairs(t)}
    own, whole = [t for t in data["train"] if t.id not in data["asked"]], keys(data["train"])
    tasks, seen = refine.lessons(config, data)
    drawn = {arc.pair_key(*p) for t in tasks for p in t.test}
    assert 0 < len(drawn) < len(keys(own)) and drawn == {
        arc.pair_key(*p) for t in own for p in refine.known_pairs(t) if held_out(p, fold) and not all(held_out(q, fold) for q in refine.known_pairs(t))}
    assert not drawn & seen and keys(data["val"]) <= seen <= whole | keys(data["val"])         # what is asked about is learned, and not drafted
    rehearsed, real = set(), refine.Backward                   # what is asked is not drafted, yet rehearsed
    class Seen(real):
        def __call__(self, item, micro):
            rehearsed.update(item[1].labels[:, 0].tolist())
            return super().__call__(item, micro)
    monkeypatch.setattr(refine, "Backward", Seen)
    assert refine.main(flags(**knobs, overwrite=True))["tasks"] == 8
    assert {row for row, (name, _) in enumerate(checkpoint(tmp_path / "run")["task_ids"], 1) if name in data["asked"]} <= rehearsed


# --------------------------------------------------------------------------------------------------------------------
# Using it

def test_a_rated_vote():
    A, B = grid("1"), grid("2")
    assert vote([Draft("t", 0, 0, A, -1, None, 0.3), Draft("t", 0, 1, A, -1, None, 0.3), Draft("t", 0, 2, B, -9, None, 0.9)])[0] is B


def test_a_change_needs_a_better_rating():
    A, B = grid("1"), grid("2")
    assert refine.decide(refine.Candidates([A, B], np.array([0.0, 1.0])), 0.5) == 1
    assert refine.decide(refine.Candidates([A, B], np.array([0.0, 1.0])), 2.0) == 0
    assert refine.decide(refine.Candidates([A, B], np.array([0.0, -1.0])), 0.0) == 0
    assert refine.decide(refine.Candidates([A, A], np.array([0.0, 1.0])), 0.0) == 0


def test_the_margin_is_what_all_views_say():
    """The plain view alone would take every change; in the others the small ones break more than they fix."""
    A, B = grid("1"), grid("2")
    task = make_task("t", "1 > 1", "1 > 1")
    was = [(B, 0.2), (A, 0.2), (A, 1.2), (B, 3.2)]             # drafts of four views, and by how much their change is rated above them
    result = refine.Refined([task], [Draft("t", 0, view, found, -1, None) for view, (found, _) in enumerate(was)],
                            [refine.Candidates([found, A if found is B else B], np.array([0.0, more])) for found, more in was])
    assert [sum(np.array_equal(a, x) for a, _, x in result.judged(m, all_views=True)) for m in (0, 0.5, 1.5, 4)] == [2, 2, 3, 2]
    assert refine.best_margin(result) == 3.0
    assert refine.best_margin(result._replace(before=result.before[:1])) == 0.0


def test_a_run_and_what_it_leaves(again, tmp_path):
    metrics = again()
    folder = tmp_path / "run" / "refine"
    assert {"config.json", "log.txt", "metrics.jsonl", "ckpt.pt", "best.pt", "drafts.bin", "submission.json"} <= {p.name for p in folder.iterdir()}
    assert 0 <= metrics["single_before"] <= 1 and metrics["tasks"] == 12 and metrics["times_scored"] == 1
    assert checkpoint(folder)["network"] == "Refiner" and len(records(folder, "val")) == 2
    later = again(eval_only=True)
    same = [key for key in metrics if key not in ("minutes", "seconds", "train_minutes", "times_scored", "max_steps")]
    assert {key: later[key] for key in same} == {key: metrics[key] for key in same} and later["times_scored"] == 2
    mine = write_tasks(tmp_path / "mine.json", [make_task("a", "1 > 1; 22 > 22", "33; 4")])
    assert "tasks" not in again(eval_only=True, tasks=mine)
    assert len(json.loads((folder / "submission.json").read_text())["a"]) == 2


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_resume_equals_uninterrupted(again, tmp_path, monkeypatch, how):
    class Killed(Exception):
        pass

    def act():
        if how == "interrupted":
            signal.raise_signal(signal.SIGINT)
        else:
            raise Killed
    again(out="whole")
    with monkeypatch.context() as patch, pytest.raises(Killed if how == "killed" else SystemExit):
        real, calls = Optimizer.step, []
        patch.setattr(Optimizer, "step", lambda self, lr: (calls.append(1), act() if len(calls) == 3 else None, real(self, lr)))
        again(out="parts")
    again(out="parts", resume=True)
    whole, parts = (checkpoint(tmp_path / name / "refine") for name in ("whole", "parts"))
    for key in ("training", "model", "optimizer", "step", "best", "margin", "drafts"):
        assert equal(whole[key], parts[key]), key


def test_drafts_are_kept_and_made_anew_for_another_network(again, first, tmp_path):
    again()
    place = tmp_path / "run" / "refine" / "drafts.bin"
    before = place.stat().st_mtime_ns
    again(overwrite=True)
    assert place.stat().st_mtime_ns == before
    whole = place.read_bytes()
    place.write_bytes(whole[:1000])                            # cut short
    again(overwrite=True)
    assert place.read_bytes() == whole
    before = place.stat().st_mtime_ns
    other = torch.load(first, weights_only=True)
    other["model"]["head.weight"] += 0.01
    torch.save(other, tmp_path / "other.pt")
    kept = first.read_bytes()
    try:
        torch.save(other, first)
        for how in ("resume", "eval_only"):
            with pytest.raises(UserError, match="learned to correct the drafts of another network.*--overwrite"):
                again(**{how: True})
    finally:
        first.write_bytes(kept)
    assert place.stat().st_mtime_ns == before
    again(overwrite=True, refine_from=tmp_path / "other.pt")
    assert place.stat().st_mtime_ns > before


# --------------------------------------------------------------------------------------------------------------------
# Errors

ERRORS = {
    "no checkpoint": (dict(refine_from="nowhere.pt"), "nowhere.pt: no such checkpoint.*train.py"),
    "another encoding": (dict(encoding="rope"), "another network: encoding is 'quadtree' there and 'rope' here"),
    "another config": (dict(oned_max_width=8), "oned_max_width was 9 and is 8.*refine_from"),
    "shares above one": (dict(refine_right=0.8, refine_corrupt=0.4), "refine_right = 0.8 and refine_corrupt = 0.4"),
    "no such file": (dict(tasks="nowhere.json"), "nowhere.json: no such file"),
    "eval before training": (dict(eval_only=True), "no such checkpoint.*refine.py without --eval_only"),
    "resume before training": (dict(resume=True), "no such checkpoint.*refine.py without"),
    "init_from": (dict(init_from="some.pt"), "init_from = 'some.pt'.*--refine_from"),
    "weights only": (dict(refine_from="best"), "holds weights only.*--refine_from="),
    "loops": (dict(refine_loops=0), "refine_loops = 0 is out of its range"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input(again, first, tmp_path, case):
    knobs, message = ERRORS[case]
    if knobs.get("refine_from") == "best":
        knobs = dict(refine_from=first.with_name("best.pt"))
    with pytest.raises(UserError, match=message) as error:
        again(**knobs)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("run/refine/*.pt"))


def test_nothing_to_learn_from(again, monkeypatch):
    monkeypatch.setattr(refine, "teacher_forced", lambda model, exam, *_: {"exact": np.ones(len(exam.asked))})
    monkeypatch.setattr(refine, "draft", lambda *_, **__: ([], [], 0))
    with pytest.raises(UserError, match="of 60 tasks that it never saw it drafts none wrong.*--refine_tasks"):
        again()


def test_a_finished_run_is_not_overwritten(again, tmp_path):
    again()
    before = (tmp_path / "run" / "refine" / "ckpt.pt").read_bytes()
    with pytest.raises(UserError, match="already holds a run.*--overwrite"):
        again()
    with pytest.raises(UserError, match="no such file"):
        again(overwrite=True, test="nowhere.json")
    assert (tmp_path / "run" / "refine" / "ckpt.pt").read_bytes() == before


def test_attempts_are_ranked_by_likelihood_where_rate_views_asks(again, first, tmp_path, monkeypatch):
    """An untrained refiner changes no draft, so they are train.py's, but for the broken rectangles that it mends; and not those that votes would give."""
    monkeypatch.setattr(train, "draft", partial(train.draft, mend=True))
    said = {name: again(name, views=4, refine_steps=0, rate_views=rate_views) for name, rate_views in (("counted", 0), ("rated", 3))}
    alone = train.main(flags(**{**SMALL, "eval_only": True, "init_from": first, "out_dir": tmp_path / "alone", "views": 4, "rate_views": 3}))
    for name in ("before", "after"):
        for key in ("pass1", "pass2"):
            assert said["rated"][f"{key}_{name}"] == alone[key] and said["rated"][f"{key}_counted_{name}"] == said["counted"][f"{key}_{name}"]
    attempts = {name: json.loads((tmp_path / name / "submission.json").read_text()) for name in ("counted/refine", "rated/refine", "alone")}
    assert attempts["rated/refine"] == attempts["alone"] != attempts["counted/refine"]


def test_a_refiner_of_another_version_is_refused(again, tmp_path):
    again()
    path = tmp_path / "run" / "refine" / "ckpt.pt"
    found = checkpoint(path.parent)
    found["model"]["facts.weight"] = found["model"]["facts.weight"][:, 1:]
    torch.save(found, path)
    for how in ("eval_only", "resume"):
        with pytest.raises(UserError, match="ckpt.pt: a refiner of another version of this code.*--overwrite"):
            again(**{how: True})


def test_networks_are_not_taken_for_each_other(again, first, tmp_path):
    again()
    with pytest.raises(UserError, match="holds a Refiner, and a GPT is needed"):
        again(out="b", refine_from=tmp_path / "run" / "refine" / "ckpt.pt")
    with pytest.raises(UserError, match="holds a GPT, and a Refiner is needed"):
        again(eval_only=True, init_from=first)
