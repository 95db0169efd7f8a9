"""Drafts as documents: demonstrations, query and a draft of the answer, for the refinement network (refine.py); and damaged answers."""
import itertools
import types
from typing import NamedTuple

import numpy as np
import torch

from data import arc
from data.arc import COLORS, END
from data.batch import QUERY, Pairs, documents, fit_demos, gather, send
from data.score import same

WRONG, RIGHT, DAMAGED = 0, 1, 2


def damage(rng, query, answer):
    """An answer with a fault of the kind networks make: moved by one, a row or column lost, a patch or a colour repainted, or the query."""
    grid, (H, W) = answer.copy(), answer.shape
    kind, axis, hue = rng.integers(5), int(rng.integers(2)), int(rng.choice(np.unique(np.append(query, answer))))
    if kind == 0:
        grid = np.roll(grid, rng.choice([-1, 1]), axis)
    elif kind == 1:                                            # the others close up, the last becomes background
        gone = rng.integers(grid.shape[axis])
        grid = np.concatenate([np.delete(grid, gone, axis), np.zeros_like(grid.take([0], axis))], axis)
    elif kind == 2:
        r, c = rng.integers(H), rng.integers(W)
        grid[r:r + rng.integers(1, 3), c:c + rng.integers(1, 4)] = hue
    elif kind == 3:
        grid[grid == rng.choice(np.unique(grid))] = hue
    elif query.shape == grid.shape:
        grid = query.copy()
    if (grid == answer).all():
        r, c = rng.integers(H), rng.integers(W)
        grid[r, c] = (grid[r, c] + rng.integers(1, COLORS)) % COLORS
    return grid


class Shown(NamedTuple):
    """A task, a query of it and a draft, as one view shows them."""
    demos: list
    query: object
    found: object                  # (H, W): the draft
    sure: object                   # (2, H, W): log-probability and vote share of each cell
    answer: object                 # None: not known
    row: int                       # of the task embedding
    symmetry: int
    kind: int
    fixed: set                     # colours that no permutation may change


def shown(config, task, i, view, row, found, sure, kind=None):
    """A draft for query i of a task, and how sure of each cell (2, H, W), in the task's own orientation and colours, under a view (symmetry, colour
    table)."""
    symmetry, table = view
    query, answer = task.test[i]
    seen = arc.view_task(arc.Task("", task.train[:config.demos], [(query, found), (query, answer)]), symmetry, table)
    (query, found), (_, answer) = seen.test
    if kind is None:
        kind = RIGHT if answer is not None and same(found, answer) else WRONG
    return Shown(seen.train, query, found, np.stack([arc.transform(of, symmetry) for of in sure]), answer, row, symmetry, kind,
                 arc.fixed_colors(task, config.demos == 0))


def as_shown(config, tasks, drafts, asked, rows, frame):
    """Drafts that are grids, as documents' parts. A mended one may have become longer than max_answer, or end outside the frame, and is left as it
    is. -> (list of Shown, which drafts they are)."""
    fits = lambda grid: grid.size + len(grid) < config.max_answer and max(grid.shape) < frame
    which = [q for q, d in enumerate(drafts) if d.grid is not None and fits(arc.transform(d.grid, asked[q][3]))]
    sure = lambda d: np.stack([d.sure, d.share])
    return [shown(config, tasks[asked[q][0]], asked[q][1], asked[q][3:], rows.get(drafts[q].task, 0), drafts[q].grid, sure(drafts[q]))
            for q in which], which


class Drafts:
    """Documents that end with a draft. `data` is what is cached: flat tensors, tokens and coordinates as the first network reads them,
    and beside each token the answer's (END where it is not known, or of another shape) and how sure the draft was: its log-probability and vote share."""

    def __init__(self, data, config, device, banned=frozenset(), beside=None):
        """banned: pairs as tokens, that no recoloured document may show; beside: what else each step shows, FromTasks."""
        self.data, self.config, self.banned, self.device, self.beside = data, config, banned, device, beside
        host = {key: data[key].numpy() for key in ("start", "length", "prompt", "docs")}
        self.docs = host.pop("docs")                           # (D, 6): first pair, pairs, task row, symmetry, kind, fixed colours as bits
        self.pairs = types.SimpleNamespace(**host, **{key: data[key].to(device) for key in ("tokens", "coords")})
        self.answers, self.sure = data["answers"].to(device), data["sure"].to(device)

    @staticmethod
    def pack(found, config):
        """A list of Shown as `data`. Demonstrations that do not fit max_len beside query and draft are left out."""
        pairs, docs = [], []
        for d in found:
            lengths = [len(arc.encode_pair(pair)[0]) for pair in [*d.demos, (d.query, d.found)]]
            kept = fit_demos(lengths[:-1], lengths[-1], config.max_len)
            assert kept is not None, "a draft fits: so did its prompt with max_answer tokens"
            docs.append((len(pairs), len(kept) + 1, d.row, d.symmetry, d.kind, sum(1 << color for color in d.fixed)))
            pairs += [d.demos[k] for k in kept] + [(d.query, d.found)]
        pairs = Pairs(pairs)
        answers, sure = pairs.tokens.clone(), torch.zeros(2, len(pairs.tokens))
        for d, (first, count, *_) in zip(found, docs):
            p, (H, W) = first + count - 1, d.found.shape
            place = slice(pairs.start[p, 0] + pairs.prompt[p, 0], pairs.start[p, 0] + pairs.prompt[p, 0] + H * (W + 1))
            fits = d.answer is not None and d.answer.shape == d.found.shape
            answers[place] = torch.from_numpy(arc.encode_grid(d.answer)) if fits else END
            sure[:, place].view(2, H, W + 1)[..., :-1] = torch.from_numpy(np.ascontiguousarray(d.sure, np.float32))
        return dict(tokens=pairs.tokens, coords=pairs.coords, answers=answers, sure=sure, docs=torch.tensor(docs).reshape(-1, 6),
                    **{key: torch.from_numpy(getattr(pairs, key)) for key in ("start", "length", "prompt")})

    def last(self):
        """(start, prompt, length) of the query and draft of each document."""
        p = self.docs[:, 0] + self.docs[:, 1] - 1
        return np.stack([getattr(self.pairs, key)[p, 0] for key in ("start", "prompt", "length")], 1)

    def documents(self, chosen):
        """From a list of (document, order of its demonstrations or None, colour table)."""
        out = []
        for d, order, table in chosen:
            first, count, row, *_ = self.docs[d]
            out.append(([*(first + (np.arange(count - 1) if order is None else order)), first + count - 1], 0, table, row))
        return documents(self.pairs, out)._replace(labels=self.docs[[d for d, *_ in chosen], 2:4])

    def recolored(self, d, rng):
        """A colour table under which no pair of the document is one of val or test; as it is, if none is found."""
        first, count, *_, bits = self.docs[d]
        fixed = {color for color in range(COLORS) if bits >> color & 1}
        for _ in range(8 if self.config.colors else 0):
            table = arc.color_table(rng, fixed)
            pieces = [slice(s, s + n) for s, n in zip(self.pairs.start[first:first + count, 0], self.pairs.length[first:first + count, 0])]
            if not any(table[self.data["answers"][piece].numpy()].astype(np.uint8).tobytes() in self.banned for piece in pieces):
                return table
        return np.arange(arc.VOCAB)

    def __getitem__(self, step):
        """The documents of a training step, drawn by kind, recoloured, demonstrations in another order: all from (seed, step)."""
        rng, room, chosen = np.random.default_rng([self.config.seed, step]), self.config.batch_tokens, []
        while True:
            d = rng.choice(self.kinds[rng.choice(len(self.shares), p=self.shares)])
            first, count = self.docs[d][:2]
            room -= self.pairs.length[first:first + count, 0].sum()
            if room < 0:
                return self.documents(chosen)
            chosen.append((d, rng.permutation(count - 1), self.recolored(d, rng)))

    def stream(self, first, workers):
        """(what `beside` shows or None, documents with drafts) of step `first` and on; `workers` is not needed, the work is small."""
        c = self.config
        wanted = {WRONG: 1 - c.refine_right - c.refine_corrupt, RIGHT: c.refine_right, DAMAGED: c.refine_corrupt}
        found = {kind: np.flatnonzero(self.docs[:, 4] == kind) for kind in wanted}
        used = [kind for kind in wanted if wanted[kind] > 0 and len(found[kind])]
        self.kinds, shares = [found[kind] for kind in used], np.array([wanted[kind] for kind in used])
        self.shares = shares / shares.sum()
        more = self.beside.stream(first, 0) if self.beside else itertools.repeat(None)
        return zip(more, (self[step] for step in range(first, c.max_steps)))

    def batch(self, docs):
        """-> (batch; where the drafts' cells stand in it (N,); how sure each was (2, N); what it should be (N,), END if that is not known)."""
        batch, tokens, cells, begins = gather(self.pairs, docs), self.data["tokens"].numpy(), [], np.cumsum(docs.lengths()) - docs.lengths()
        for start, length, d, _, first, kind, answer in docs.segments:
            if kind == QUERY:                                  # found on the host, which then need not wait for the device
                drafted = tokens[start + length - answer:start + length]
                cells.append(begins[d] + first + length - answer + np.flatnonzero(drafted < COLORS))
        cells = send(torch.from_numpy(np.concatenate(cells)), self.device)
        place, tables = batch.place[cells], send(torch.from_numpy(docs.tables), self.device)
        return batch, cells, self.sure[:, place], tables[batch.doc[cells], self.answers[place].long()]
