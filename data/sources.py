"""Which tasks a run trains on, chooses by and is scored on, and which refine.py drafts: the sources of its config, with the leak guard applied."""
import itertools
from collections import Counter

from config import UserError, names
from data import arc, oned
from data.arc import pair_key
from data.batch import Generated, held_out, known_pairs


def load_data(config):
    """-> dict: train (tasks, or None where the generator makes them), val, test, asked (ids of val's and test's tasks), banned (keys of their pairs),
    families of the generator, ids the leak guard dropped, and lines that say all this."""
    c, say, dropped = config, [], []
    out = names(c.oned_held_out)
    families = [f for f in names(c.oned_families) or list(oned.FAMILIES) if f not in out]
    for name in families + out:
        oned.check_family(name)
    if not families:
        raise UserError(f"oned_held_out = {c.oned_held_out!r} leaves no family to train on")

    def load(sources, name, families):
        def draw(count):
            tasks = oned.draw_tasks(name, count or c.oned_eval * len(families), families, (c.oned_min_width, c.oned_max_width), c.oned_lift)
            return [t._replace(id=t.id.replace("/", f"/{name.partition('/')[0]}-")) for t in tasks]
        return arc.load(sources, draw)

    def load_queries(sources, name):
        tasks = load(sources, name, out or families) if sources else []
        if sources and not any(t.test for t in tasks):
            raise UserError(f"{name} = {sources!r}: no task of it has a query (a test pair)")
        twice = [id for id, count in Counter(t.id for t in tasks).items() if count > 1]
        if twice:
            raise UserError(f"{name} = {sources!r} holds two tasks of the id {twice[0]}")
        return [t for t in tasks if t.test]

    val, test = [] if c.eval_only else load_queries(c.val, "val"), load_queries(c.test, "test")
    if c.task_embed and c.val != c.test:                       # val's demonstrations are trained on: none may be a pair of test's
        val, shared, _ = arc.guard(val, test)
        if shared:
            say.append(f"val:   {len(shared)} tasks left out that share an id or a pair with test: {' '.join(shared[:8])}")
    protected, train = val + test, []
    if c.train == "oned" and not c.eval_only:
        train = None
        if c.short:
            raise UserError(f"short = {c.short} is for tasks from files; generated ones are short: set --short=0")
        if c.task_embed:
            raise UserError("train = 'oned' never ends, so there is no table of its tasks: set --task_embed=False, or give "
                            "it a number, as --train=oned#2000")
        say.append(f"train: oned, {len(families)} families, widths {c.oned_min_width}..{c.oned_max_width}, {c.oned_lift:.0%} "
                   "lifted to 2D; tasks that hold a pair of val or test are rejected")
    elif not c.eval_only:
        if "oned" in map(str.strip, c.train.split("+")):
            raise UserError(f"train = {c.train!r}: beside other sources, say how many generated tasks: oned#2000")
        train, dropped, merged = arc.guard(load(c.train, f"train/{c.seed}", families), protected)
        say.append(f"train: {len(train)} tasks from {c.train}; leak guard: {len(dropped)} dropped, {merged} merged into a twin"
                   + (f"; dropped: {' '.join(dropped[:8])}{' ...' if len(dropped) > 8 else ''}" if dropped else ""))
        if c.task_embed:
            own = {t.id: t._replace(test=[]) for t in protected}
            train += own.values()
            say.append(f"       and the demonstrations of the {len(own)} tasks of val and test: their rules live in the weights"
                       + (f"; shown {c.focus:g} times as often" if c.focus != 1 else ""))
        if not train:
            raise UserError(f"train = {c.train!r}: no task is left to train on")
    if not c.task_embed:
        for task in (train or []) + protected:
            if not task.train:
                raise UserError(f"task {task.id}: no demonstrations, and without task_embed nothing else tells its rule")
    for name, tasks in (("val", val), ("test", test)):
        if tasks:
            answers = sum(b is not None for t in tasks for _, b in t.test)
            say.append(f"{name + ':':6s} {len(tasks)} tasks, {sum(len(t.test) for t in tasks)} queries, {answers} with known answers")
    banned = {pair_key(*pair) for task in protected for pair in known_pairs(task)}
    return dict(train=train, val=val, test=test, asked={t.id for t in protected}, banned=banned, families=families, dropped=dropped, say=say)


def lessons(config, data):
    """What refine.py drafts, to learn from. -> (tasks whose queries the drafting network never trained on, keys of pairs that must not be among these)."""
    c, banned = config, data["banned"]
    if not c.demos and not c.fold:
        raise UserError("demos = 0: this network knows the tasks it was trained on and no other, and all their pairs; train it with --fold=0/8, and refine "
                        "it with the same: the pairs held out are drafted")
    if c.fold:                                                 # train.py held out a part of these tasks' pairs
        tasks = []
        for task in data["train"]:
            if task.id not in data["asked"]:
                parts = {False: [], True: []}
                for pair in known_pairs(task):
                    parts[held_out(pair, c.fold)].append(pair)
                tasks.append(task._replace(train=parts[False], test=parts[True]))
        return [t for t in tasks if t.test and t.train][:c.refine_tasks], banned | {pair_key(*p) for t in tasks for p in t.train}
    if c.refine_train == "oned" or c.refine_train == "seen" and data["train"] is None:
        stream = Generated(c, data["families"], banned, "refine" if c.refine_train == "oned" else "train")
        steps = itertools.count() if c.refine_train == "oned" else range(c.max_steps)
        return list(itertools.islice((task for step in steps for task, _ in stream.step_tasks(step)), c.refine_tasks)), banned
    if c.refine_train == "seen":
        return [t._replace(train=known_pairs(t)[:-1], test=known_pairs(t)[-1:]) for t in data["train"]][:c.refine_tasks], banned
    tasks, *_ = arc.guard(arc.load(c.refine_train), data["val"] + data["test"] + (data["train"] or []))
    tasks = [t._replace(test=[p for p in t.test if p[1] is not None]) for t in tasks]
    return [t for t in tasks if t.test and t.train][:c.refine_tasks], banned


def check_unseen(tasks, seen, path):
    """No query may be one the drafting network knows, nor one of val or test: its draft would be the answer, and teach to copy."""
    for task in tasks:
        if any(pair_key(*pair) in seen for pair in task.test):
            raise UserError(f"{path}: task {task.id} has a query that this network trained on, or that val or test holds; its draft would leak the "
                            "answer. Draft other tasks: --refine_train=; or train it with --fold, and the pairs held out are drafted")
