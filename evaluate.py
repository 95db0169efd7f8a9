"""What a network can do: known answers fed in (teacher forcing), answers drafted under every view, drafts ranked. How they vote and are scored:
data/score.py."""
import time
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F

from config import UserError
from data import arc
from data.batch import IGNORE, bins
from data.exam import Exam, questions
from data.score import as_draft
from model import AMPERE, generate


def precision(config, device):
    """torch's dtype of products: as asked, or else what the device is quick in."""
    return getattr(torch, config.dtype or ("bfloat16" if device.type == "cuda" and AMPERE else "float32"))


def autocast(config, device):
    return torch.autocast(device.type, torch.bfloat16, enabled=precision(config, device) == torch.bfloat16)


def out_of_memory(error):
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


def in_parts(work, parts, say, knob):
    """(part, work(part)) of each list of documents; where memory is too small, of its halves. knob: what makes the parts smaller."""
    todo = list(parts)
    while todo:
        part, found = todo.pop(0), None
        try:
            found = work(part)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(part) == 1:
                raise UserError("out of memory with a single document: lower --max_answer, --max_len, --n_embd or --n_layer") from None
        if found is None:                                      # not within `except`, which keeps all that the attempt had made
            torch.cuda.empty_cache()                           # torch does so itself, but not while a graph is recorded
            say(f"  out of memory with {len(part)} documents at once: half of them (a lower --{knob} starts that way)")
            todo[:0] = [part[:len(part) // 2], part[len(part) // 2:]]
            continue
        yield part, found


def exam_of(tasks, config, rows, device):
    """The queries with known answers, as they are (view 0); None if there are none."""
    asked = [q for q in questions(tasks, 1, config) if tasks[q[0]].test[q[1]][1] is not None]
    return Exam(tasks, asked, config, rows, False, device) if asked else None


@torch.no_grad()
def teacher_forced(model, exam, config, device, say=print):
    """The known answer is fed in, and each next token asked for. Greedy decoding gives the same grid if and only if every argmax
    is right, so `exact` needs no decoding. -> dict of arrays over exam.asked: exact, nll, n, cells, right."""
    out = {name: np.zeros(len(exam.asked)) for name in ("exact", "nll", "n", "cells", "right")}

    def judge(which):
        batch = exam.batch(which)
        with autocast(config, device):
            logits = model(batch.tokens, batch.coords, batch.docs, batch.labels).float()
        doc = torch.repeat_interleave(torch.arange(len(which), device=device), batch.docs.diff())
        asked = batch.query.bool()
        hit = (logits.argmax(-1) == batch.targets) & asked
        cell = asked & (batch.targets < arc.COLORS)
        nll = F.cross_entropy(logits, batch.targets, ignore_index=IGNORE, reduction="none") * asked
        sums = torch.zeros(5, len(which), device=device)
        for row, values in zip(sums, (asked, hit, nll, cell, hit & cell)):
            row.index_add_(0, doc, values.float())
        return sums.cpu().numpy()

    many = config.micro_tokens or max(config.batch_tokens, config.draft_tokens // 16)          # more than in training: no gradient is kept
    for which, (n, hits, nll, cells, right) in in_parts(judge, bins(exam.docs.lengths(), many), say, "micro_tokens"):
        places = np.array(exam.where)[which]
        for name, values in dict(exact=hits == n, nll=nll, n=n, cells=cells, right=right).items():
            out[name][places] = values
    return out


def validate(model, exam, config, device, say=print):
    """-> metrics of the queries' outputs: loss (nats a token), cells, exact, and exact by family."""
    got = teacher_forced(model, exam, config, device, say)
    families = defaultdict(list)
    for (t, *_), exact in zip(exam.asked, got["exact"]):
        families[exam.tasks[t].id.partition("/")[0] if "/" in exam.tasks[t].id else "all"].append(exact)
    share = lambda part, whole: got[part].sum() / max(1, got[whole].sum())
    return {"loss": share("nll", "n"), "cells": share("right", "cells"),
            "exact": got["exact"].mean(), "n": len(exam.asked), **by_dimension(families)}


def by_dimension(families):
    """{family: scores} -> its means, and the means of the 1D and the 2D tasks apart, where names tell them."""
    out = {"families": {name: float(np.mean(values)) for name, values in sorted(families.items())}}
    for kind in ("1d", "2d"):
        values = [x for name, scores in families.items() if name.startswith(kind) for x in scores]
        if values:
            out[f"exact_{kind}"] = float(np.mean(values))
    return out


def draft(model, tasks, config, rows, device, say=print, mend=False, temperature=0.0):
    """Drafts of every query under its views, in the order of exam.questions. -> (drafts, the Exam they answer)."""
    asked = questions(tasks, config.views, config)
    exam = Exam(tasks, asked, config, rows, True, device)
    answers, said = {}, time.time()

    def work(which):
        batch = exam.batch(which)
        with autocast(config, device):
            return generate(model, batch.tokens, batch.coords, batch.docs, batch.labels, config.max_answer, temperature)

    for which, found in in_parts(work, exam.plan(config.draft_tokens), say, "draft_tokens"):
        answers.update(zip((exam.where[d] for d in which), found))
        if time.time() - said > 10:
            say(f"  drafts {len(answers)}/{len(exam.where)}")
            said = time.time()
    if len(exam.where) < len(asked):
        say(f"  {len(asked) - len(exam.where)} of {len(asked)} prompts do not fit: prompt + max_answer ({config.max_answer}) > max_len "
            f"({config.max_len}); they count as failed")
    return [as_draft(tasks[t].id, i, v, s, table, answers.get(q), mend) for q, (t, i, v, s, table) in enumerate(asked)], exam


RATED = 16                                                     # grids of a query: the right one is seldom further down


def rate(model, tasks, attempts, config, rows, device, say=print):
    """Where views drafted different grids, the RATED best of these are ranked by the mean log-probability of the whole grid under rate_views
    views, and not by votes (Franzen et al., arXiv 2505.07859). attempts: as voted, of score. -> the same grids in their new order."""
    number, candidates, asked, ranked = {}, [], [], dict(attempts)
    for t, i, *view in questions(tasks, config.rate_views, config):
        task, grids = tasks[t], attempts.get((tasks[t].id, i), [])[:RATED]
        if len(grids) > 1:
            if (task.id, i) not in number:
                number[task.id, i] = len(candidates)
                candidates.append(task._replace(train=task.train[:config.demos], test=[(task.test[i][0], grid) for grid in grids]))
            asked += [(number[task.id, i], k, *view) for k in range(len(grids))]
    if not asked:
        return ranked
    got = teacher_forced(model, Exam(candidates, asked, config, rows, False, device), config, device, say)
    of = np.array([c for c, *_ in asked])
    for key, c in number.items():
        nll, n = (got[name][of == c].reshape(-1, len(candidates[c].test)) for name in ("nll", "n"))       # (views, grids)
        fit = (n > 0).all(1)                                   # views under which each of them fits
        if fit.any():
            order = np.argsort(nll[fit].mean(0), kind="stable")
            ranked[key] = [attempts[key][k] for k in order] + attempts[key][RATED:]
    return ranked
