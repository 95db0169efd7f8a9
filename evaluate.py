"""What a network can do: known answers fed in (teacher forcing), answers drafted under every view, drafts ranked. How they vote and are scored:
data/score.py."""
import time
from collections import defaultdict

import numpy as np
import torch

from config import UserError
from data import arc
from data.batch import bins
from data.exam import Exam, questions
from data.score import as_draft, score, vote
from model import Answer, generate


def precision(config, device):
    """torch's dtype of products: as asked, or else what the device is quick in."""
    return getattr(torch, config.dtype or ("bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"))


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
    return Exam(tasks, asked, config, rows, device) if asked else None


@torch.no_grad()
def feed(model, exam, config, device, say=print):
    """The answers that documents have are fed in, and each next token asked for. -> of all tokens of answers, `end` too, flat, in the order of
    documents: (number of the document, token, its log-probability, is it the likeliest?), numpy (n,)."""
    def work(which):
        batch = exam.batch(answered[which])
        with autocast(config, device):
            logits = model(batch.tokens, batch.coords, batch.docs, batch.labels).float()
        asked = batch.query.bool()
        targets, logits = batch.targets[asked], logits[asked]
        logps = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        return [x.cpu().numpy() for x in (batch.doc[asked], targets, logps, logits.argmax(-1) == targets)]

    many = config.micro_tokens or max(config.batch_tokens, config.draft_tokens // 16)          # more than in training: no gradient is kept
    answered = np.flatnonzero(exam.docs.answers())
    parts = [(answered[which][doc], *rest) for which, (doc, *rest) in in_parts(work, bins(exam.docs.lengths()[answered], many), say, "micro_tokens")]
    columns = [np.concatenate(column) for column in zip(*parts)] if parts else [np.zeros(0, kind) for kind in (int, int, float, bool)]
    order = np.argsort(columns[0], kind="stable")
    return [column[order] for column in columns]


def teacher_forced(model, exam, config, device, say=print):
    """Known answers judged token by token. Greedy decoding gives the same grid if and only if every argmax is right, so `exact` needs no
    decoding. -> dict of arrays over exam.asked: exact, nll, n, cells, right."""
    doc, tokens, logps, hit = feed(model, exam, config, device, say)
    cell, out = tokens < arc.COLORS, {}
    for name, values in dict(exact=hit, nll=-logps, n=np.ones_like(hit), cells=cell, right=hit & cell).items():
        out[name] = np.zeros(len(exam.asked))
        out[name][exam.where] = np.bincount(doc, values, len(exam.where))
    return {**out, "exact": (out["exact"] == out["n"]) & (out["n"] > 0)}


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


def decode(model, exam, config, device, say, temperature=0.0):
    """-> an Answer to each document of an exam, None where it came to none. An answer that a document has is a guess: it is fed in, all of it at once,
    and the network goes on from where it would say something else. Greedily that is what it would say alone, up to rounding, and sooner (speculative
    decoding, Leviathan et al., arXiv 2211.17192)."""
    doc, tokens, logps, hit = feed(model, exam, config, device, say)
    n = np.bincount(doc, minlength=len(exam.where))
    start, agreed = np.cumsum(n) - n, n.copy()                 # where a guess begins, and how many tokens of it stay
    which, first = np.unique(doc[~hit], return_index=True)
    agreed[which] = np.flatnonzero(~hit)[first] - start[which]
    kept = [(tokens[a:a + k], logps[a:a + k]) for a, k in zip(start, agreed)]
    whole = (agreed == n) & (n > 0)
    answers, said = [Answer(t[:-1], p) if all_of_it else None for (t, p), all_of_it in zip(kept, whole)], time.time()
    exam.begin(agreed)

    def work(which):
        batch = exam.batch(which)
        with autocast(config, device):
            return generate(model, batch.tokens, batch.coords, batch.docs, batch.labels, config.max_answer - agreed[which], temperature)

    done = sum(whole)
    for which, found in in_parts(work, exam.plan(config.draft_tokens, np.flatnonzero(~whole)), say, "draft_tokens"):
        for d, more in zip(which, found):
            if more is not None:
                answers[d] = Answer(*(np.concatenate(both) for both in zip(kept[d], more)))
        done += len(which)
        if time.time() - said > 10:
            say(f"  drafts {done}/{len(answers)}")
            said = time.time()
    return answers


def guessed(tasks, asked, drafts, config, frame):
    """The tasks with the best of some drafts as answers, {place in asked: draft}; without one where there is none, or where it might not fit under
    another view: too long, or (mended) with a last row that ends outside the frame."""
    groups, best = defaultdict(list), {}
    for q, found in drafts.items():
        groups[asked[q][:2]].append(found)
    for key, group in groups.items():
        best.update({key: grid for grid in vote(group)[:1] if grid.size + max(grid.shape) < config.max_answer and max(grid.shape) < frame})
    return [task._replace(test=[(query, best.get((t, i))) for i, (query, _) in enumerate(task.test)]) for t, task in enumerate(tasks)]


def draft(model, tasks, config, rows, device, say=print, mend=False, temperature=0.0):
    """Drafts of every query under its views. -> (drafts, their questions in the order of exam.questions, how many demonstrations did not fit). A
    few views draft first; what they vote for is the others' guess."""
    asked, drafts, left_out, failed = questions(tasks, config.views, config), {}, 0, 0
    first = config.views if temperature else 1 + config.views // 16                            # a sample does not follow from another
    for late in (False, True):
        part = [q for q, (_, _, view, *_) in enumerate(asked) if (view >= first) == late]
        if not part:
            continue
        exam = Exam(guessed(tasks, asked, drafts, config, model.shape.frame), [asked[q] for q in part], config, rows, device)
        left_out, failed = left_out + exam.left_out, failed + len(part) - len(exam.where)
        answers = dict(zip(exam.where, decode(model, exam, config, device, say, temperature)))
        for p, q in enumerate(part):
            t, i, *view = asked[q]
            drafts[q] = as_draft(tasks[t].id, i, *view, answers.get(p), mend)
    if failed:
        say(f"  {failed} of {len(asked)} prompts do not fit: prompt + max_answer ({config.max_answer}) > max_len ({config.max_len}); they count as failed")
    return [drafts[q] for q in range(len(asked))], asked, left_out


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
    got = teacher_forced(model, Exam(candidates, asked, config, rows, device), config, device, say)
    of = np.array([c for c, *_ in asked])
    for key, c in number.items():
        nll, n = (got[name][of == c].reshape(-1, len(candidates[c].test)) for name in ("nll", "n"))       # (views, grids)
        fit = (n > 0).all(1)                                   # views under which each of them fits
        if fit.any():
            order = np.argsort(nll[fit].mean(0), kind="stable")
            ranked[key] = [attempts[key][k] for k in order] + attempts[key][RATED:]
    return ranked


def ranked(model, tasks, drafts, voted, config, rows, device, say=print):
    """With rate_views, drafts as score has `voted` them are ranked anew. -> (metrics of score, those of the votes beside them as `_counted`;
    attempts)."""
    if not config.rate_views:
        return voted
    counted, attempts = voted
    metrics, attempts = score(tasks, drafts, rate(model, tasks, attempts, config, rows, device, say))
    return {**metrics, **{f"{key}_counted": counted[key] for key in ("pass1", "pass2") if key in counted}}, attempts
