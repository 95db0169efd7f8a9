"""What the refiner makes of drafts: candidates with ratings, which of them is taken, and what that does to the scores."""
from typing import NamedTuple

import numpy as np

from data.score import same, score


class Candidates(NamedTuple):
    """What the refiner makes of one draft: its guesses, the draft first, and their ratings (logits: exactly right?)."""
    grids: list                    # (H, W) in the task's own orientation and colours
    ratings: np.ndarray


def decide(found, margin):
    """Which candidate: the best rated, if it is rated above the draft by more than `margin`; else the draft, 0."""
    best = int(found.ratings.argmax())
    return best if found.ratings[best] > found.ratings[0] + margin and not same(found.grids[best], found.grids[0]) else 0


def chance(logit):
    return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))


class Refined(NamedTuple):
    """Drafts of some tasks, and what became of them."""
    tasks: list
    before: list                   # score.Draft, one a view
    candidates: list               # Candidates, or None where the draft is no grid

    def after(self, margin):
        """Drafts to vote: of each view the chosen candidate, weighted by its rating, and faintly the others, for the second attempt."""
        out = []
        for draft, found in zip(self.before, self.candidates):
            if found is not None:
                k = decide(found, margin)
                out += [draft._replace(grid=grid, weight=chance(found.ratings[i]) * (1 if i == k else 1e-3))
                        for i, grid in enumerate(found.grids) if i == k or not same(grid, found.grids[k])]
        return out

    def ranked(self):
        """The drafts as they are, weighted by their ratings."""
        return [d if c is None else d._replace(weight=chance(c.ratings[0])) for d, c in zip(self.before, self.candidates)]

    def judged(self, margin, all_views=False):
        """-> of each draft in the plain view, or in all, of a query with a known answer: this answer, the draft, what became of it."""
        answers = {(task.id, i): answer for task in self.tasks for i, (_, answer) in enumerate(task.test)}
        return [(answers[d.task, d.test], d.grid, d.grid if c is None else c.grids[decide(c, margin)])
                for d, c in zip(self.before, self.candidates) if (all_views or d.view == 0) and answers[d.task, d.test] is not None]


NEAR = 5                                                       # a near miss: the right shape, and at most so many wrong cells


def compare(result, margin):
    """Single view, before and after: exact grids, cells right, drafts fixed and broken, near misses and how many of those were fixed."""
    rows = result.judged(margin)
    misses = lambda k: [int((row[k] != row[0]).sum()) if row[k] is not None and row[k].shape == row[0].shape else -1 for row in rows]
    before, after = misses(1), misses(2)
    cells = lambda found: float(np.mean([1 - n / row[0].size if n >= 0 else 0 for n, row in zip(found, rows)]))
    near = [0 < n <= NEAR for n in before]
    return dict(single_before=before.count(0) / len(rows), single_after=after.count(0) / len(rows),
                cells_before=cells(before), cells_after=cells(after),
                fixed=sum(b != 0 and a == 0 for b, a in zip(before, after)), broken=sum(b == 0 and a != 0 for b, a in zip(before, after)),
                near_misses=sum(near), near_misses_fixed=sum(n and a == 0 for n, a in zip(near, after)),
                near_misses_after=sum(0 < a <= NEAR for a in after), wrong_shapes=before.count(-1))


MARGINS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 1000.0)      # the last: no correction at all, ratings only weigh votes


def best_margin(result):
    """How much better than the draft a correction must be rated: what leaves most grids right on val in all views, of equals the largest. One view
    says too little: of 450 drafts a margin fixes or breaks a few."""
    return max(reversed(MARGINS), key=lambda margin: sum(same(after, answer) for answer, _, after in result.judged(margin, all_views=True)))


def report(result, margin):
    """-> metrics of a Refined with known answers: `compare`, and the votes of all views before and after, and with ratings alone."""
    metrics = compare(result, margin)
    metrics["curve"] = [(m, *(compare(result, m)[key] for key in ("fixed", "broken", "near_misses_fixed"))) for m in MARGINS]     # to see, not to choose
    for name, drafts in (("before", result.before), ("ranked", result.ranked()), ("after", result.after(margin))):
        scores, _ = score(result.tasks, drafts)
        metrics.update({f"{key}_{name}": scores[key] for key in ("pass1", "pass2", "oracle")})
    return metrics
