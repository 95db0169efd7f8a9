"""Queries as documents: under which views each is asked, and which demonstrations fit in front of it."""
import numpy as np

from data import arc
from data.batch import Pairs, documents, fit_demos, gather


def questions(tasks, n_views, config):
    """(task number, query number, view, symmetry, colour table) of every query under its views. View 0 is the task as it is; the
    others show different prompts, so a symmetric task has fewer."""
    asked = []
    for t, task in enumerate(tasks):
        rng, fixed = np.random.default_rng([0, t]), arc.fixed_colors(task, config.demos == 0)
        prompts = [{} for _ in task.test]                      # of each query: what the network is shown -> the view
        asks = task._replace(train=task.train[:config.demos], test=[(query, None) for query, _ in task.test])
        for attempt in range(8 * n_views):
            view = (attempt % arc.SYMMETRIES if config.symmetries else 0,
                    arc.color_table(rng, fixed) if config.colors and attempt else np.arange(arc.VOCAB))
            shown = arc.view_task(asks, *view)
            for seen, (query, _) in zip(prompts, shown.test):
                if len(seen) < n_views:
                    look = [*(g for pair in shown.train for g in pair), query]
                    seen.setdefault(tuple(map(arc.grid_key, look)), view)
            if all(len(seen) == n_views for seen in prompts):
                break
        asked += [(t, i, v, *view) for i, seen in enumerate(prompts) for v, view in enumerate(seen.values())]
    return asked


class Exam:
    """Queries as documents. The prompt and the fixed allowance max_answer decide which demonstrations fit, never the answer."""

    def __init__(self, tasks, asked, config, rows, device):
        self.tasks, self.asked, self.left_out = tasks, asked, 0    # left_out: demonstrations that did not fit
        first, pairs = [], []
        for task in tasks:
            first.append(len(pairs))
            pairs += task.train + task.test
        self.pairs = Pairs(pairs, arc.SYMMETRIES if config.symmetries else 1).to(device)
        self.where, self.guess, chosen = [], [], []            # the questions that fit, about how long their answers are, their documents
        for q, (t, i, _, s, table) in enumerate(asked):
            demos = np.arange(first[t], first[t] + len(tasks[t].train))[:config.demos]
            query = first[t] + len(tasks[t].train) + i
            answer = self.pairs.length[query, s] - self.pairs.prompt[query, s]
            kept = fit_demos(self.pairs.length[demos, s], self.pairs.prompt[query, s] + config.max_answer, config.max_len)
            if kept is None or answer > config.max_answer:
                continue                                       # a failed draft; it stays in the denominator
            self.left_out += len(demos) - len(kept)
            self.where.append(q)
            self.guess.append(self.guess_answer(np.arange(first[t], query - i), query, s))
            chosen.append(([*demos[kept], query], s, table, rows.get(tasks[t].id, 0)))
        self.docs = documents(self.pairs, chosen)

    def begin(self, kept):
        """From now on documents end after the first `kept` (D,) tokens of their answers, and the rest is asked for."""
        answers = self.docs.answers()
        self.docs, self.guess = self.docs.cut(kept), np.where(answers > 0, answers - kept, self.guess)

    def guess_answer(self, demos, query, s):
        """Tokens of the answer, guessed from the demonstrations' sizes: only to draft together what ends together."""
        prompts, answers = self.pairs.prompt[demos, s], self.pairs.length[demos, s] - self.pairs.prompt[demos, s]
        if len(set(answers)) == 1:
            return int(answers[0])
        return int(self.pairs.prompt[query, s] * (answers.sum() / prompts.sum() if len(demos) else 1))

    def plan(self, tokens, which):
        """Documents to draft together: of like answers, then of like prompts, and with prompt and answer of about `tokens` in all."""
        prompts, guess = self.docs.lengths(), np.array(self.guess)
        order = which[np.lexsort([prompts[which], np.log2(guess[which] + 1).round()])[::-1]]
        batches, longest = [], 0
        for d in order:
            longest = max(longest, prompts[d] + guess[d])
            if not batches or (len(batches[-1]) + 1) * longest > tokens:
                batches.append([])
                longest = prompts[d] + guess[d]
            batches[-1].append(d)
        return batches

    def batch(self, which):
        return gather(self.pairs, self.docs.take(which))
