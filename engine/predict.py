"""From queries to attempts. The words, in the order of the data:

target      the true output, where it is known
proposal    a grid that the network judges, or verifies, token by token
answer      the tokens that the network wrote (model.Answer); a "known answer" is a target
prediction  an answer as a grid in the task's own orientation and colors; or no grid
attempt     one of the grids of a test input, best first; two are submitted
draft       a grid that the network reads before it answers (refine.py)
"""
import copy
import math
import time
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch

from arc import oned
from arc.score import attempts_by_votes, grid_key, score, to_prediction
from arc.task import Query
from arc.tokens import COLORS, grid_length
from arc.views import IDENTITY, SYMMETRIES, fixed_colors, random_colors, view_grid, view_pairs
from engine.batches import DocumentPlan, Pairs, build_documents, fit_demos, gather, pack
from engine import ranks
from engine.cuda_graphs import run_steps
from engine.devices import autocast, in_smaller_parts
from model import Answer, generate

TOP_K = 16                                     # grids of a query that are reranked


def make_queries(tasks, views, config):
    """Returns the Queries of every test input under up to `views` distinct views.

    View 0 is the task as it is, with its first demonstrations; other views draw theirs where a task
    has more than `demos`. Views must show different prompts, so a symmetric task has fewer.
    """
    queries = []
    for t, task in enumerate(tasks):
        rng, fixed = np.random.default_rng([0, t]), fixed_colors(task, config.demos > 0)
        # of each test input: prompt -> (symmetry, colors, demos)
        distinct = [{} for _ in task.test]
        for trial in range(8 * views):         # random views may show what an earlier one shows
            symmetry = trial % SYMMETRIES if config.symmetries else 0
            colors = random_colors(rng, fixed) if config.colors and trial else IDENTITY
            demos = np.arange(len(task.train))
            if trial and 0 < config.demos < len(demos):
                demos = rng.permutation(demos)
            demos = sorted(demos[:config.demos].tolist())
            pairs = view_pairs([task.train[k] for k in demos], symmetry, colors)
            demo_keys = [grid_key(grid) for pair in pairs for grid in pair]
            for view_of, (grid, _) in zip(distinct, task.test):
                if len(view_of) < views:
                    prompt = (*demo_keys, grid_key(view_grid(grid, symmetry, colors)))
                    view_of.setdefault(prompt, (symmetry, colors, tuple(demos)))
            if all(len(view_of) == views for view_of in distinct):
                break
        for i, view_of in enumerate(distinct):
            for number, view in enumerate(view_of.values()):
                queries.append(Query(task, i, number, *view))
    return queries


def known_queries(tasks, config):
    """Returns the queries of known answers in the plain view."""
    return [query for query in make_queries(tasks, 1, config) if query.target is not None]


def with_sampled(attempts, sampled):
    """Returns attempts {(task id, test): grids}, the sampled Predictions' behind the TOP_K best."""
    found, more = {}, attempts_by_votes(sampled)
    for key, grids in attempts.items():
        grids = grids[:TOP_K] + more.get(key, []) + grids[TOP_K:]
        found[key] = list({grid_key(grid): grid for grid in grids}.values())
    return found


def likeliest_first(attempts, nlls):
    """Returns attempts {(task id, test): grids}, those of which nlls has the nats (n,) in order."""
    found = dict(attempts)
    for key, nll in nlls.items():
        grids = attempts[key]
        order = np.argsort(nll, kind="stable")
        found[key] = [grids[k] for k in order] + grids[len(nll):]
    return found


class QuerySet:
    """Queries as documents: the demonstrations that fit, the input, the proposal if there is one.

    The prompt and the fixed allowance max_answer decide which demonstrations fit, never the answer.
    A query that does not fit, or would show a grid beyond the canvas, has no document; it counts as
    failed.
    """

    def __init__(self, queries, config, row_of, device, canvas=math.inf):
        self.fitting = []                      # numbers of the queries that have a document
        self.dropped_demos = 0                 # demonstrations that did not fit
        self.expected_lengths = []             # about how many tokens will be decoded, (D,)
        plans = []
        numbers = self.encode(queries, config, device)
        for q, (query, (train, own)) in enumerate(zip(queries, numbers)):
            s, last = query.symmetry, own[-1]  # the last pair is (input, proposal)
            length, prompt = self.pairs.length[:, s], self.pairs.prompt[:, s]
            demos = train[list(query.demos)]
            reserved = length[own[:-1]].sum() + prompt[last] + config.max_answer
            kept = fit_demos(length[demos], reserved, config.max_len)
            # a proposal longer than max_answer cannot be judged
            if kept is None or length[last] - prompt[last] > config.max_answer:
                continue
            pairs = [*demos[kept], *own]       # of the document, by number
            if self.sides[pairs].max() >= canvas:
                continue
            self.fitting.append(q)
            self.dropped_demos += len(demos) - len(kept)
            expected = expected_length(prompt[train], length[train], prompt[own[0]])
            self.expected_lengths.append(expected)
            row = row_of.get(query.task.id, 0)
            draft = query.draft is not None
            plans.append(DocumentPlan(pairs, s, query.colors, row, draft))
        self.documents = build_documents(self.pairs, plans)

    def encode(self, queries, config, device):
        """Encodes every different pair of the queries once.

        Returns for each query (numbers of its task's demonstrations, numbers of its own pairs). Its
        own are (input, proposal); where a draft is read, (input, draft) and (nothing, proposal).
        """
        pairs, number_of, found = [], {}, []

        def number(pair):
            key = tuple(map(id, pair))         # the queries keep these grids alive
            if key not in number_of:
                number_of[key] = len(pairs)
                pairs.append(pair)
            return number_of[key]
        for query in queries:
            grid = query.task.test[query.test][0]
            own = [(grid, query.proposal)]
            if query.draft is not None:
                own = [(grid, query.draft), (None, query.proposal)]
            train = np.array([number(pair) for pair in query.task.train], int)
            found.append((train, [number(pair) for pair in own]))
        # the longest side of each pair's grids
        self.sides = np.array([max((max(grid.shape) for grid in pair if grid is not None),
                                   default=0) for pair in pairs])
        symmetries = 1 + max((query.symmetry for query in queries), default=0)
        self.pairs = Pairs(pairs, symmetries).to(device)
        return found

    def truncate(self, kept):
        """Returns this set with only the first kept (D,) tokens of the proposals, to decode on."""
        proposed = self.documents.query_output_lengths()
        shorter = copy.copy(self)
        shorter.documents = self.documents.cut_query_outputs(kept)
        shorter.expected_lengths = np.where(proposed > 0, proposed - kept, self.expected_lengths)
        return shorter

    def decode_batches(self, tokens, which):
        """Returns lists of documents to decode together, about `tokens` tokens each in all.

        Documents of similar answers come together, then those of similar prompts.
        """
        prompts, answers = self.documents.lengths(), np.array(self.expected_lengths)
        by_answer = np.log2(answers[which] + 1).round()
        order = np.lexsort([prompts[which], by_answer])[::-1]
        batches, longest = [], 0
        for d in which[order]:
            length = prompts[d] + answers[d]
            longest = max(longest, length)
            if not batches or (len(batches[-1]) + 1) * longest > tokens:
                batches.append([])
                longest = length
            batches[-1].append(d)
        return batches

    def batch(self, which):
        return gather(self.pairs, self.documents.take(which))


def expected_length(prompts, lengths, prompt):
    """Returns about how many tokens an answer has, by the demonstrations' sizes.

    It decides only what is decoded together.
    """
    answers = lengths - prompts
    if len(set(answers)) == 1:
        return int(answers[0])
    return int(prompt * (answers.sum() / prompts.sum() if len(answers) else 1))


class TokenScores(NamedTuple):
    """The tokens of proposals, `end` included, in the order of documents. (n,) each."""
    document: np.ndarray
    token: np.ndarray
    logprob: np.ndarray
    agrees: np.ndarray                         # the network finds it the likeliest


class Predictor:
    """A network and what predicting needs: config, rows of the task embedding, device, log."""

    def __init__(self, model, config, row_of, device, log=print):
        self.model, self.config, self.canvas = model, config, model.config.canvas
        self.row_of, self.device, self.log = row_of, device, log

    def query_set(self, queries):
        return QuerySet(queries, self.config, self.row_of, self.device, self.canvas)

    @torch.no_grad()
    def teacher_force(self, query_set):
        """Returns the TokenScores of all proposals: each token given, the next one judged."""
        c, documents = self.config, query_set.documents

        def work(which):
            batch = query_set.batch(proposed[which])
            with autocast(c, self.device):
                logits = self.model(batch.tokens, batch.coords, batch.cu_seqlens, batch.task_view)
            judged = batch.is_query.bool()
            targets, logits = batch.targets[judged], logits.float()[judged]
            logprobs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
            columns = batch.document[judged], targets, logprobs, logits.argmax(-1) == targets
            return [x.cpu().numpy() for x in columns]

        proposed = np.flatnonzero(documents.query_output_lengths())
        # more at once than in training: no gradient is kept
        capacity = c.micro_tokens or max(c.batch_tokens, c.predict_tokens // 16)
        parts = pack(documents.lengths()[proposed], capacity)
        found = [[np.zeros(0, kind) for kind in (int, int, np.float32, bool)]]
        for which, (document, *rest) in self.share_out(work, parts, "micro_tokens"):
            found.append((proposed[which][document], *rest))
        columns = [np.concatenate(column) for column in zip(*found)]
        order = np.argsort(columns[0], kind="stable")
        return TokenScores(*(column[order] for column in columns))

    def share_out(self, work, parts, knob):
        """Yields (part, work(part)) of all lists of documents; every rank works on its share."""
        own = parts[ranks.rank()::ranks.world()]
        return ranks.everyones(in_smaller_parts(work, own, knob, self.log))

    def judge(self, queries):
        """Returns {name: (n,)} of the queries' proposals: exact, nll (nats), tokens, cells, right.

        tokens, cells: how many. right: cells that the network finds likeliest. exact: so is every
        token, and greedy decoding gives the proposal. With the target as the proposal these are
        scores. A query that does not fit has zeros.
        """
        query_set = self.query_set(queries)
        scores = self.teacher_force(query_set)
        is_cell = scores.token < COLORS
        columns = dict(agrees=scores.agrees, nll=-scores.logprob, tokens=np.ones(len(is_cell)),
                       cells=is_cell, right=scores.agrees & is_cell)
        query = np.array(query_set.fitting, int)[scores.document]       # of each token
        sums = {name: np.bincount(query, values, len(queries)) for name, values in columns.items()}
        sums["exact"] = (sums.pop("agrees") == sums["tokens"]) & (sums["tokens"] > 0)
        return sums

    def judge_targets(self, queries):
        """Returns (metrics of the targets: loss (nats a token), cells, exact; which are exact).

        Teacher forcing: the target is given, and each of its tokens judged before it is read.
        """
        scores = self.judge([query._replace(proposal=query.target) for query in queries])
        unfit = int((scores["tokens"] == 0).sum())
        if unfit:
            c = self.config
            self.log(f"  {unfit} of {len(queries)} known answers do not fit max_answer = "
                     f"{c.max_answer}, max_len = {c.max_len} or the canvas: `exact` counts them as "
                     "wrong, `loss` and `cells` leave them out")
        names = [query.task.id for query in queries]
        metrics = {
            # over all tokens of the answers
            "loss": scores["nll"].sum() / max(1, scores["tokens"].sum()),
            # share of the cells predicted right, given the true tokens before them
            "cells": scores["right"].sum() / max(1, scores["cells"].sum()),
            # share of the answers that are right from end to end
            "exact": scores["exact"].mean(),
            "n": len(queries),
            **oned.by_family(names, scores["exact"]),
        }
        return metrics, scores["exact"]

    def decode(self, query_set, sample=False):
        """Returns an Answer for each document of the set; None where `generate` gives up.

        A proposal is verified in one forward pass; decoding goes on after the prefix that the
        network agrees with: of `3 3 row 3 0 row end` it keeps `3 3 row 3` where it predicts `3` and
        not `0`. Greedily that gives the answer it would find alone, up to rounding, and sooner
        (speculative decoding, arXiv 2211.17192). With `sample` tokens are drawn, and no query has
        a proposal.
        """
        scores = self.teacher_force(query_set)
        D = len(query_set.fitting)
        bounds = np.searchsorted(scores.document, range(D + 1))
        agreed = np.zeros(D, int)              # tokens of each proposal that stay
        answers, prefixes = [None] * D, []
        for d, (begin, end) in enumerate(zip(bounds, bounds[1:])):
            wrong = np.flatnonzero(~scores.agrees[begin:end])
            agreed[d] = wrong[0] if len(wrong) else end - begin
            kept = slice(begin, begin + agreed[d])
            prefixes.append((scores.token[kept], scores.logprob[kept]))
            if end > begin and not len(wrong):
                answers[d] = Answer(scores.token[kept][:-1], scores.logprob[kept])
        rest = np.flatnonzero([answer is None for answer in answers])
        self.decode_rest(query_set.truncate(agreed), answers, prefixes, rest, sample)
        return answers

    def decode_rest(self, query_set, answers, prefixes, which, sample):
        """Fills in the answers of documents `which`, after their prefixes (tokens, logprobs)."""
        c = self.config
        limits = c.max_answer - query_set.documents.query_output_lengths()    # new tokens of each

        def work(part):
            batch = query_set.batch(part)
            with autocast(c, self.device):
                return generate(self.model, batch, limits[part], run_steps, sample)
        done, logged = len(answers) - len(which), time.time()
        parts = query_set.decode_batches(c.predict_tokens, which)
        for part, found in self.share_out(work, parts, "predict_tokens"):
            for d, rest in zip(part, found):
                if rest is not None:
                    answers[d] = Answer(*map(np.concatenate, zip(prefixes[d], rest)))
            done += len(part)
            if time.time() - logged > 10:
                self.log(f"  predictions {done}/{len(answers)}")
                logged = time.time()

    def propose(self, queries, predictions):
        """Returns the queries, each with the grid that most predictions of it vote for.

        Without one where there is none, or where it would not fit under every view.
        """
        best = {key: grids[0] for key, grids in attempts_by_votes(predictions).items()
                if grids and self.fits(grids[0])}
        return [query._replace(proposal=best.get(query.key)) for query in queries]

    def fits(self, grid):
        """Returns whether a grid may stand as an answer under every view."""
        H, W = grid.shape
        longest = max(grid_length(H, W), grid_length(W, H)) + 1
        return longest <= self.config.max_answer and max(H, W) < self.canvas

    def predict_queries(self, queries, sample=False):
        """Returns a Prediction for each query."""
        if not queries:
            return []
        query_set = self.query_set(queries)
        answers = dict(zip(query_set.fitting, self.decode(query_set, sample)))
        failed = len(queries) - len(query_set.fitting)
        if failed:
            c = self.config
            self.log(f"  {failed} of {len(queries)} prompts do not fit: prompt + max_answer "
                     f"({c.max_answer}) > max_len ({c.max_len}), or a side >= canvas "
                     f"({self.canvas}); they count as failed")
        if query_set.dropped_demos and len(queries) > 1:
            self.log(f"  {query_set.dropped_demos} demonstrations did not fit, in {len(queries)} "
                     "prompts")
        return [to_prediction(query, answers.get(q)) for q, query in enumerate(queries)]

    def predict(self, tasks, views):
        """Returns a Prediction for every test input under its views.

        A few views are decoded first, and what they vote for is proposed to the others.
        """
        n_demos = self.config.demos
        longer = sum(len(task.train) > n_demos for task in tasks)
        if n_demos and longer:
            self.log(f"  {longer} of {len(tasks)} tasks have more than demos = {n_demos} "
                     f"demonstrations: a view shows {n_demos} of them, others than the next view")
        queries = make_queries(tasks, views, self.config)
        n_early = 1 + views // 16              # enough to agree, few enough to decode alone
        early = [query for query in queries if query.view < n_early]
        late = [query for query in queries if query.view >= n_early]
        predictions = self.predict_queries(early)
        return predictions + self.predict_queries(self.propose(late, predictions))

    def log_unanswered(self, attempts):
        """Logs how many queries have no attempt. attempts: {(task id, test): grids}."""
        none = sum(not grids for grids in attempts.values())
        if none:
            self.log(f"  {none} of {len(attempts)} queries have no attempt, so [[0]] is written "
                     "for them: no prediction is a grid, or the prompt does not fit max_len or "
                     "the canvas")

    def record_test(self, metrics, step, started):
        """Records the metrics of `test`, with what they depend on and how often it was scored."""
        c, log = self.config, self.log
        metrics.update(views=c.views, step=step, seconds=time.time() - started, source=c.test,
                       times_scored=log.times_scored(c.test),
                       pretrained=self.model.config.pretrained or None)
        log.record(kind="test", **metrics)

    def sample(self, tasks):
        """Returns the Predictions that were drawn from the network's probabilities, one a view.

        An answer may be second in every view, where no vote finds it. Without rerank_views nothing
        could order what is drawn, so nothing is.
        """
        c = self.config
        if not c.samples:
            return []
        if not c.rerank_views:                 # with --eval_only
            self.log("  no answer is sampled: rerank_views = 0, and votes cannot order them")
            return []
        started = time.time()
        torch.manual_seed(c.seed + ranks.rank() * 2**40)
        sampled = self.predict_queries(make_queries(tasks, c.samples, c), sample=True)
        self.log(f"  {len(sampled)} answers sampled in {time.time() - started:.0f} seconds")
        return sampled

    def nll_of_attempts(self, tasks, attempts, best):
        """Returns {(task id, test): (n,) nats}, how unlikely the first `best` grids are.

        Minus the mean log-probability of the whole grid under those of rerank_views views under
        which all of them fit. A query without such a view, or with fewer than two grids, is not in
        the dict. attempts: {(task id, test): grids}.
        """
        queries, rows = [], defaultdict(list)
        for query in make_queries(tasks, self.config.rerank_views, self.config):
            grids = attempts.get(query.key, [])[:best]
            if len(grids) > 1:
                for grid in grids:
                    rows[query.key].append(len(queries))
                    queries.append(query._replace(proposal=grid))
        found = {}
        if not queries:
            return found
        scores = self.judge(queries)
        for key, row in rows.items():
            n = len(attempts[key][:best])
            nll = scores["nll"][row].reshape(-1, n)                             # (views, n)
            fits = (scores["tokens"][row].reshape(nll.shape) > 0).all(1)
            if fits.any():
                found[key] = nll[fits].mean(0)
        return found

    def rerank(self, tasks, attempts):
        """Returns the attempts, likeliest grids first (Franzen et al., arXiv 2505.07859)."""
        best = TOP_K + self.config.samples
        return likeliest_first(attempts, self.nll_of_attempts(tasks, attempts, best))

    def rank_and_score(self, tasks, predictions, sampled=()):
        """Returns (metrics, attempts): grids ordered by votes, or by likelihood if asked for.

        sampled: more Predictions to be ordered by likelihood. Reranked attempts have the metrics of
        votes, of `predictions` alone, beside them, as pass1_by_votes and pass2_by_votes. Where no
        answer is known only the attempts count.
        """
        attempts = attempts_by_votes(predictions)
        metrics = score(tasks, predictions, attempts)
        if not self.config.rerank_views:
            return metrics, attempts
        by_votes = {f"{key}_by_votes": metrics[key] for key in ("pass1", "pass2") if key in metrics}
        attempts = self.rerank(tasks, with_sampled(attempts, sampled))
        return {**score(tasks, predictions, attempts), **by_votes}, attempts
