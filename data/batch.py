"""Documents and batches: which pairs follow each other, under which view, how they are laid end to end, and which of them
each training step sees.

Pairs are encoded once (for each symmetry, if views are used). A document is a list of them: demonstrations, then the query
pair. A pair's tokens and coordinates were traced from the start of a document; as the cursor at the start of slot k is
(tokens so far, 2 k, 0, 0), placing it there is one addition.
"""
import copy
import signal
from typing import NamedTuple

import numpy as np
import torch

from config import UserError
from data import oned
from data.arc import SYMMETRIES, VOCAB, color_table, encode_pair, fixed_colors, form_key, pair_key, trace, transform, view_task

IGNORE = -100                                                  # cross_entropy's label for "no target here"
ROUND = 16                                                     # batches of a fixed number of tokens hold a multiple of so many documents
DEMO, QUERY = 1, 2                                             # kinds of segments; 0: filler


def send(tensor, device):
    """To the device; to CUDA from pinned memory, so that the host need not wait for what runs there."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Pairs:
    """Encoded pairs, flat. tokens (N,) uint8 and coords (N, 4) int16 of all of them, each under each symmetry; start, length
    and prompt (P, S): where pair p under symmetry s begins, its tokens, and how many come before the answer."""

    def __init__(self, pairs, symmetries=1):
        see = lambda grid, s: None if grid is None else transform(grid, s)
        coded = [encode_pair((see(a, s), see(b, s))) for a, b in pairs for s in range(symmetries)]
        shape = (len(pairs), symmetries)
        self.length = np.array([len(tokens) for tokens, _ in coded]).reshape(shape)
        self.prompt = np.array([prompt for _, prompt in coded]).reshape(shape)
        self.start = (np.cumsum(self.length) - self.length.ravel()).reshape(shape)
        self.tokens = torch.from_numpy(np.concatenate([tokens for tokens, _ in coded]))
        self.coords = torch.from_numpy(trace([tokens for tokens, _ in coded]))

    def to(self, device):
        self.tokens, self.coords = send(self.tokens, device), send(self.coords, device)
        return self


class Documents(NamedTuple):
    """D documents on the host, as S segments: the pieces of `Pairs` they are made of."""
    segments: np.ndarray           # (S, 7): start, length, document, slot, index of its first token, kind, targets
    tables: np.ndarray             # (D, 14): the colour permutation
    labels: np.ndarray             # (D, 2): task row, symmetry
    left_out: int = 0              # demonstrations that had not fitted when these were made, of all documents so far

    def lengths(self):
        return np.bincount(self.segments[:, 2], self.segments[:, 1], len(self.labels)).astype(int)

    def targets(self, kind=None):
        """Number of target tokens: of all outputs, or of the outputs of one kind."""
        chosen = self.segments[:, 5] == kind if kind else self.segments[:, 5] > 0
        return int(self.segments[chosen, 6].sum())

    def answers(self):
        """How many tokens of an answer each document has."""
        return self.segments[self.segments[:, 5] == QUERY, 6]

    def cut(self, kept):
        """The documents with the first `kept` (D,) tokens of their answers."""
        segments, query = self.segments.copy(), self.segments[:, 5] == QUERY
        segments[query, 1] -= self.answers() - kept
        segments[query, 6] = kept
        return self._replace(segments=segments)

    def take(self, which):
        """The documents numbered `which`, renumbered."""
        number = np.full(len(self.labels), -1)
        number[which] = np.arange(len(which))
        ends = np.searchsorted(self.segments[:, 2], [which, np.add(which, 1)]).T                 # segments stand in the order of documents
        order = np.concatenate([np.arange(*end) for end in ends]) if len(which) else []
        segments = self.segments[order].copy()
        segments[:, 2] = number[segments[:, 2]]
        return Documents(segments, self.tables[which], self.labels[which])


def documents(pairs, chosen):
    """Documents from a list of (pair numbers with the query last, symmetry, colour table, task row)."""
    segments = []
    for d, (numbers, s, _, _) in enumerate(chosen):
        first = 0
        for slot, p in enumerate(numbers):
            kind, length = QUERY if slot == len(numbers) - 1 else DEMO, pairs.length[p, s]
            segments.append((pairs.start[p, s], length, d, slot, first, kind, length - pairs.prompt[p, s]))
            first += length
    return Documents(np.array(segments, np.int64).reshape(-1, 7), np.array([table for _, _, table, _ in chosen], np.int64),
                     np.array([(row, s) for _, s, _, row in chosen], np.int64))


def fit_demos(lengths, query, limit):
    """Which demonstrations stay when a document may have `limit` tokens and the query takes `query` of them: in their order,
    each that still fits. None where not even the query fits."""
    if query > limit:
        return None
    kept = []
    for i, length in enumerate(lengths):
        if query + length <= limit:
            kept.append(i)
            query += length
    return kept


def bins(lengths, capacity):
    """Share documents out among few micro-batches, each to the first of the last 16 that has room: a list of lists of their numbers."""
    out, room = [], []
    for d, length in enumerate(lengths):
        if length > capacity:
            raise UserError(f"a document of {length} tokens, and only {capacity} are processed at once: raise --micro_tokens "
                            "or --batch_tokens, or lower --max_len")
        spot = next((b for b in range(max(0, len(out) - 16), len(out)) if length <= room[b]), None)
        if spot is None:
            out.append([])
            room.append(capacity)
            spot = -1
        out[spot].append(d)
        room[spot] -= length
    return out


class Batch(NamedTuple):
    """What the network reads, (T,) tokens of documents laid end to end, and what it should answer."""
    tokens: torch.Tensor
    coords: torch.Tensor           # (T, 4)
    docs: torch.Tensor             # (D + 1,) int32: where each document begins, and the end
    labels: torch.Tensor           # (T, 2): task row, symmetry
    targets: torch.Tensor          # (T,): the next token where it belongs to an output, else IGNORE
    query: torch.Tensor            # (T,): 1 where that output is the query's
    doc: torch.Tensor              # (T,): the number of its document
    place: torch.Tensor            # (T,): where it stands in Pairs.tokens


def gather(pairs, docs, capacity=0, max_len=0):
    """One batch, on the device where `pairs` are. With a capacity it has that many tokens: what is left over is filled with
    ignored documents of at most max_len tokens; and empty ones make their number a multiple of ROUND: batches of few shapes."""
    device = pairs.tokens.device
    segments, lengths = docs.segments, docs.lengths()
    T = int(lengths.sum())
    if capacity:
        D, fill = len(lengths), [min(max_len, capacity - a) for a in range(T, capacity, max_len)]
        lengths = np.concatenate([lengths, fill, np.zeros(-(D + len(fill)) % ROUND)]).astype(int)
        segments = np.concatenate([segments] + [[(0, n, D + i, 0, 0, 0, 0)] for i, n in enumerate(fill)])
        T = capacity
    ends = np.cumsum(np.concatenate([[0], lengths]))
    extra = len(lengths) - len(docs.labels)
    tables = np.concatenate([docs.tables, np.tile(np.arange(docs.tables.shape[1]), (extra, 1))])
    labels = np.concatenate([docs.labels, np.zeros((extra, docs.labels.shape[1]), int)])

    ready = lambda array: send(torch.from_numpy(np.ascontiguousarray(array)), device)
    start, length, doc, slot, first, kind, _ = ready(segments.T)
    tables, labels, ends = ready(tables), ready(labels), ready(ends.astype(np.int32))

    which = torch.repeat_interleave(torch.arange(len(start), device=device), length, output_size=T)      # (T,) segment
    place = torch.arange(T, device=device) - (length.cumsum(0) - length)[which] + start[which]
    place = place % len(pairs.tokens)                                # filler may be longer than all pairs together
    doc, kind = doc[which], kind[which]
    tokens = tables[doc, pairs.tokens[place].long()]
    shift = torch.stack([first, 2 * slot, 0 * slot, 0 * slot], 1)
    coords = pairs.coords[place].long() + shift[which]
    answer = torch.where(coords[:, 1] % 2 == 1, kind, 0)       # `end` stands in the output plane too
    targets = torch.full_like(tokens, IGNORE)
    targets[:-1] = torch.where(answer[1:] > 0, tokens[1:], IGNORE)
    query = torch.zeros_like(tokens)
    query[:-1] = answer[1:] == QUERY
    return Batch(tokens, coords, ends, labels[doc], targets, query, doc, place)


# --------------------------------------------------------------------------------------------------------------------
# Training data: what step i sees follows from (seed, i)

def known_pairs(task):
    return task.train + [(a, b) for a, b in task.test if b is not None]


class Generated:
    """`oned` without end: the tasks of step i are drawn for step i, so nothing is stored and nothing repeats."""
    store, left_out, TRIES = None, 0, 10000                    # each step brings its own pairs

    def __init__(self, config, families, banned, name="train"):
        self.config, self.families, self.banned, self.name = config, families, banned, name
        if config.fold:
            raise UserError("fold holds out demonstration pairs of tasks from files; train = 'oned' has none")
        width, rows = oned.widest(families, config.oned_max_width), oned.ROWS[1] if config.oned_lift else 1
        cells = max(rows * (width + 1), width * (rows + 1) if rows > 1 or config.symmetries else 0)
        longest = (min(config.demos, oned.PAIRS - 1) + 1) * (3 + 2 * cells)
        if longest > config.max_len:
            raise UserError(f"generated tasks take up to {longest} tokens, and a document may have max_len = {config.max_len}; raise "
                            "--max_len, or lower --oned_max_width or --demos")

    def __len__(self):
        return self.config.max_steps

    def tasks(self, step):
        """(task under a random view, symmetry), without end; none holds a banned pair."""
        c, rng, rejected = self.config, np.random.default_rng([self.config.seed, step]), 0
        for task in oned.stream(f"{self.name}/{c.seed}/{step}", self.families, (c.oned_min_width, c.oned_max_width), c.oned_lift):
            symmetry = int(rng.integers(SYMMETRIES)) if c.symmetries else 0
            view = view_task(task, symmetry, color_table(rng) if c.colors else np.arange(VOCAB))
            if any(pair_key(*pair) in self.banned for pair in [*view.train[:c.demos], *view.test[:1]]):          # judged as the network would see it
                rejected += 1
                if rejected > self.TRIES:
                    raise UserError(f"{self.TRIES} generated tasks in one step hold a pair of val or test; raise --oned_max_width, or "
                                    "lower --oned_eval")
                continue
            yield view, symmetry

    def step_tasks(self, step):
        """Those that fit in a step: as `tasks`."""
        used, out = 0, []
        for view, symmetry in self.tasks(step):
            shown = [*view.train[:self.config.demos], *view.test[:1]]
            length = sum(3 + sum(g.shape[0] * (g.shape[1] + 1) for g in pair) for pair in shown)
            if used + length > self.config.batch_tokens:
                return out
            out.append((view, symmetry))
            used += length

    def __getitem__(self, step):
        pairs, chosen, symmetries = [], [], []
        for view, symmetry in self.step_tasks(step):
            shown = [*view.train[:self.config.demos], *view.test[:1]]
            chosen.append((range(len(pairs), len(pairs) + len(shown)), 0, np.arange(VOCAB), 0))
            symmetries.append(symmetry)
            pairs += shown
        coded = Pairs(pairs)
        docs = documents(coded, chosen)
        docs.labels[:, 1] = symmetries
        return coded, docs

    def stream(self, first, workers):
        return torch.utils.data.DataLoader(self, batch_size=None, sampler=range(first, len(self)), num_workers=workers,
                                           collate_fn=as_it_is, worker_init_fn=ignore_interrupt)


def as_it_is(item):
    return item


def ignore_interrupt(_):
    """Ctrl-C reaches every process of the terminal; the main one decides when to stop, and saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class FromTasks(torch.utils.data.IterableDataset):
    """Tasks from files. An epoch shows every task once (with a task embedding, every pair that fits), cut into documents, each under a
    random view; unless `focus` says that some come more often, and `short` that long ones come less. Steps are filled from a window of
    documents: the oldest, while it fits, then the longest that fits. The order follows from the seed alone, so resuming runs through it
    again without the work."""
    WINDOW = 64

    def __init__(self, tasks, config, rows, device, asked=frozenset()):
        """asked: ids of the tasks of val and test, whose demonstrations are shown `focus` times as often, and never held out by `fold`."""
        self.config, self.rows, self.tasks, self.left_out, self.first = config, rows, tasks, 0, 0
        self.times = [config.focus if task.id in asked else 1.0 for task in tasks]
        pairs, self.numbers = [], []
        for task in tasks:
            known = [pair for pair in known_pairs(task) if task.id in asked or not held_out(pair, config.fold)]
            self.numbers.append(list(range(len(pairs), len(pairs) + len(known))))
            pairs += known
        if not pairs:
            raise UserError("no training pair is left" + (f"; fold = {config.fold!r} holds all out" if config.fold else ""))
        self.store = Pairs(pairs, SYMMETRIES if config.symmetries else 1).to(device)
        longest = self.store.length.max(1)
        for task, numbers in zip(tasks, self.numbers):
            for p in numbers:
                if longest[p] > config.max_len:
                    raise UserError(f"task {task.id}: one of its pairs has {longest[p]} tokens, and a document may have "
                                    f"max_len = {config.max_len}; raise --max_len, or leave the task out")
        self.fixed = [(fixed_colors(task, True), fixed_colors(task, False)) for task in tasks]     # without demonstrations, and with

    def cut(self, numbers, rng):
        """A task's pairs, shuffled, as documents of demos + 1 pairs at most: one document; or, where a task embedding knows the rule
        too, all pairs in documents of random sizes: the network learns to use what it is shown, and to do without."""
        order, most = rng.permutation(numbers), self.config.demos + 1
        if not self.config.task_embed:
            return [order[:most]]
        sizes = rng.integers(1, most + 1, len(order))
        return [part for part in np.split(order, np.cumsum(sizes)) if len(part)]

    def epoch(self, rng):
        """Documents (length, pair numbers with the query last, symmetry, number of the task)."""
        c, length = self.config, self.store.length
        units = [(t, order) for t, numbers in enumerate(self.numbers) if numbers for _ in range(often(self.times[t], rng))
                 for order in self.cut(numbers, rng) if not c.short or often(min(1, c.short / length[order].mean(1).sum()), rng)]
        for u in rng.permutation(len(units)):
            t, order = units[u]
            s = int(rng.integers(length.shape[1]))
            kept = fit_demos(length[order[:-1], s], length[order[-1], s], c.max_len)
            self.left_out += len(order) - 1 - len(kept)
            order = [*order[kept], order[-1]]
            yield int(length[order, s].sum()), order, s, t

    def stream(self, first, workers):
        """The steps from `first` on; with workers one process prepares them: they follow from each other."""
        plan = copy.copy(self)
        plan.first, plan.store = first, copy.copy(self.store)
        del plan.store.tokens, plan.store.coords               # what is on the device stays here
        return torch.utils.data.DataLoader(plan, batch_size=None, num_workers=min(workers, 1), collate_fn=as_it_is, worker_init_fn=ignore_interrupt)

    def __iter__(self):
        c, rng = self.config, np.random.default_rng(self.config.seed)
        source, window = (document for _ in iter(int, 1) for document in self.epoch(rng)), []
        for step in range(c.max_steps):
            room, batch = c.batch_tokens, []
            while True:
                window += [next(source) for _ in range(self.WINDOW - len(window))]
                fits = [i for i, document in enumerate(window) if document[0] <= room]
                if not fits:
                    break
                document = window.pop(0 if fits[0] == 0 else max(fits, key=lambda i: window[i][0]))
                room -= document[0]
                batch.append(document)
            if step >= self.first:
                yield None, documents(self.store, [self.view(step, i, *d) for i, d in enumerate(batch)])._replace(left_out=self.left_out)

    def view(self, step, i, _, order, symmetry, t):
        rng = np.random.default_rng([self.config.seed, step, i])
        table = color_table(rng, self.fixed[t][len(order) > 1]) if self.config.colors else np.arange(VOCAB)
        row = self.rows.get(self.tasks[t].id, 0)
        if len(order) > 1 and rng.random() < 0.1:
            row = 0                                            # so that row 0 learns to stand for a task never seen
        return order, symmetry, table, row


def often(times, rng):
    """A whole number that is `times` on average."""
    return int(times) + (times % 1 > 0 and rng.random() < times % 1)


def held_out(pair, fold):
    """fold "i/k": is this pair in part i of k? By its form, as training shows a pair turned and recoloured."""
    if not fold:
        return False
    i, _, k = fold.partition("/")
    if not (i.isdigit() and k.isdigit() and int(i) < int(k)):
        raise UserError(f"fold = {fold!r}: expected i/k with i < k, such as 0/2")
    return int.from_bytes(form_key(*pair), "big") % int(k) == int(i)
