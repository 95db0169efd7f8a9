"""Pairs -> documents -> batches, and which documents each training step sees.

A document is a list of pairs: demonstrations, then the query pair. Each pair is encoded once, or
once under each of the 8 symmetries (`Pairs`). The symmetry of a document's view picks one of these
encodings, and `gather` looks up its colors; `Generated` applies the view to the grids instead.
Coordinates are traced as if a pair began its document; `gather` adds the cursor at which pair k
begins, (tokens so far, 2 k, 0, 0).
"""
import copy
import os
import signal
import threading
import time
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from arc import oned
from arc.leaks import allowed_colors, held_out, is_banned, of_same_form, pair_key, shows
from arc.sources import first_of
from arc.task import known_pairs
from arc.tokens import encode_pair, pair_length, trace
from arc.views import IDENTITY, SYMMETRIES, fixed_colors, random_colors, transform, view_pairs
from config import UserError

IGNORE = -100                                  # cross_entropy's label for "no target here"
DOCUMENT_MULTIPLE = 16                         # of the number of documents in a padded batch
NO_TARGET, DEMO, QUERY = 0, 1, 2               # kinds of slices: NO_TARGET is a draft, or filler


def send(tensor, device):
    """Returns the tensor on the device; from pinned memory, so that the host need not wait."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Pairs:
    """P encoded pairs, each under S symmetries, laid end to end.

    tokens (N,) uint8 and coords (N, 4) int16. start, length and prompt (P, S): where pair p under
    symmetry s begins, how many tokens it has, and how many of them come before its output.
    """

    def __init__(self, pairs, symmetries=1):
        encoded = []
        for pair in pairs:
            for s in range(symmetries):
                turned = [None if grid is None else transform(grid, s) for grid in pair]
                encoded.append(encode_pair(turned))
        sequences, prompts = zip(*encoded)
        shape = (len(pairs), symmetries)
        self.length = np.array([len(tokens) for tokens in sequences]).reshape(shape)
        self.prompt = np.array(prompts).reshape(shape)
        self.start = (np.cumsum(self.length) - self.length.ravel()).reshape(shape)
        self.tokens = torch.from_numpy(np.concatenate(sequences))
        self.coords = torch.from_numpy(np.concatenate([trace(tokens) for tokens in sequences]))
        # `gather` tells targets by their segment, `PairSlices` counts them
        in_output = (self.coords[:, 1] == 1).sum()
        assert in_output == (self.length - self.prompt).sum(), "encode_pair and trace differ"

    def to(self, device):
        self.tokens = send(self.tokens, device)
        self.coords = send(self.coords, device)
        return self


class PairSlices(NamedTuple):
    """K slices of `Pairs`, in the order of documents; each is one pair of a document. (K,) each."""
    start: np.ndarray                          # in Pairs.tokens
    length: np.ndarray                         # tokens
    document: np.ndarray
    pair_index: np.ndarray                     # in its document
    first_index: np.ndarray                    # index in the document of its first token
    kind: np.ndarray                           # NO_TARGET, DEMO or QUERY
    n_targets: np.ndarray                      # tokens of its output, `end` included


class Documents(NamedTuple):
    """D documents on the host."""
    slices: PairSlices
    colors: np.ndarray                         # (D, 14): the color permutation
    task_view: np.ndarray                      # (D, 2): row of the task embedding, symmetry

    def lengths(self):
        """Returns the tokens of each document, (D,)."""
        s = self.slices
        return np.bincount(s.document, s.length, len(self.task_view)).astype(int)

    def count_targets(self):
        """Returns the number of target tokens: those of all outputs but drafts."""
        return self.slices.n_targets[self.slices.kind != NO_TARGET].sum()

    def query_output_lengths(self):
        """Returns how many tokens the query's output has in each document, (D,)."""
        return self.slices.n_targets[self.slices.kind == QUERY]

    def cut_query_outputs(self, kept):
        """Returns the documents with only the first kept (D,) tokens of their query's output."""
        length, n_targets = self.slices.length.copy(), self.slices.n_targets.copy()
        query = self.slices.kind == QUERY
        length[query] -= self.query_output_lengths() - kept
        n_targets[query] = kept
        return self._replace(slices=self.slices._replace(length=length, n_targets=n_targets))

    def take(self, which):
        """Returns the documents numbered `which`, renumbered."""
        bounds = np.searchsorted(self.slices.document, [which, np.add(which, 1)]).T
        order = np.concatenate([np.arange(0), *(np.arange(*bound) for bound in bounds)])
        number = np.full(len(self.task_view), -1)
        number[which] = np.arange(len(which))
        slices = PairSlices(*(column[order] for column in self.slices))
        slices = slices._replace(document=number[slices.document])
        return Documents(slices, self.colors[which], self.task_view[which])


class DocumentPlan(NamedTuple):
    """What a document is made of."""
    pair_numbers: list                         # in Pairs, the query's last
    symmetry: int
    colors: np.ndarray                         # (14,)
    task_row: int                              # of the task embedding
    draft: bool = False                        # the pair before the query's is no demonstration


def build_documents(pairs, plans):
    """Returns the Documents of a list of DocumentPlans."""
    rows = []
    for d, plan in enumerate(plans):
        first_index = 0
        n_demos = len(plan.pair_numbers) - 1 - plan.draft
        kinds = [DEMO] * n_demos + [NO_TARGET] * plan.draft + [QUERY]
        for k, (p, kind) in enumerate(zip(plan.pair_numbers, kinds)):
            length = pairs.length[p, plan.symmetry]
            n_targets = length - pairs.prompt[p, plan.symmetry]
            start = pairs.start[p, plan.symmetry]
            rows.append((start, length, d, k, first_index, kind, n_targets))
            first_index += length
    columns = np.array(rows, np.int64).reshape(-1, len(PairSlices._fields)).T
    colors = np.array([plan.colors for plan in plans], np.int64)
    task_view = np.array([(plan.task_row, plan.symmetry) for plan in plans], np.int64)
    return Documents(PairSlices(*columns), colors, task_view)


def fit_demos(lengths, query, limit):
    """Returns the numbers of the demonstrations that fit: each in turn is kept if it still fits.

    lengths: tokens of each. query: tokens of the query. limit: tokens of a document. None where not
    even the query fits.
    """
    if query > limit:
        return None
    kept = []
    for i, length in enumerate(lengths):
        if query + length <= limit:
            kept.append(i)
            query += length
    return kept


def pack(lengths, capacity):
    """Returns lists of document numbers: micro-batches of at most `capacity` tokens.

    Each document goes to the first of the last 16 micro-batches that has room.
    """
    packed, room = [], []
    for d, length in enumerate(lengths):
        if length > capacity:
            raise UserError(f"a document of {length} tokens, and only {capacity} are processed at "
                            "once: raise --micro_tokens or --batch_tokens, or lower --max_len")
        recent = range(max(0, len(packed) - 16), len(packed))
        spot = next((b for b in recent if length <= room[b]), None)
        if spot is None:
            packed.append([])
            room.append(capacity)
            spot = -1
        packed[spot].append(d)
        room[spot] -= length
    return packed


class Batch(NamedTuple):
    """T tokens of D documents laid end to end, and what the network should answer."""
    tokens: torch.Tensor                       # (T,)
    coords: torch.Tensor                       # (T, 4), see arc/tokens.py
    cu_seqlens: torch.Tensor                   # (D + 1,) int32: where each document begins, and T
    task_view: torch.Tensor                    # (T, 2): row of the task embedding, symmetry
    targets: torch.Tensor                      # (T,): the next token, or IGNORE outside of outputs
    is_query: torch.Tensor                     # (T,): 1 where the target belongs to the query
    document: torch.Tensor                     # (T,): number of the document


def pad(documents, capacity, max_len):
    """Returns (slices, lengths) filled up to `capacity` tokens with documents that are ignored.

    Those have at most max_len tokens; empty ones make their number a multiple of
    DOCUMENT_MULTIPLE, so that compiled and recorded steps see few shapes. What they show does not
    matter: the colors and the task of the first document.
    """
    lengths = documents.lengths()
    filler = [min(max_len, capacity - a) for a in range(lengths.sum(), capacity, max_len)]
    empty = -(len(lengths) + len(filler)) % DOCUMENT_MULTIPLE
    zeros = PairSlices(*np.zeros((len(PairSlices._fields), len(filler)), np.int64))
    ignored = zeros._replace(length=np.array(filler, np.int64))        # its kind is NO_TARGET
    slices = PairSlices(*map(np.concatenate, zip(documents.slices, ignored)))
    lengths = np.concatenate([lengths, filler, np.zeros(empty)]).astype(int)
    return slices, lengths


def gather(pairs, documents, capacity=0, max_len=0):
    """Returns the Batch of documents, on the device of `pairs`; see `pad` for a capacity."""
    device = pairs.tokens.device
    slices, lengths = documents.slices, documents.lengths()
    if capacity:
        slices, lengths = pad(documents, capacity, max_len)
    T = int(lengths.sum())
    ends = np.cumsum(np.concatenate([[0], lengths])).astype(np.int32)

    def ready(array):
        return send(torch.from_numpy(np.ascontiguousarray(array)), device)
    s = PairSlices(*ready(np.stack(slices)))
    colors, task_view = ready(documents.colors), ready(documents.task_view)

    # of each of the T tokens: the slice that it comes from, and its index in pairs.tokens
    slice_of = torch.arange(len(s.start), device=device)
    slice_of = torch.repeat_interleave(slice_of, s.length, output_size=T)       # (T,)
    begins = s.length.cumsum(0) - s.length
    source = torch.arange(T, device=device) - begins[slice_of] + s.start[slice_of]
    source = source % len(pairs.tokens)        # filler may be longer than all pairs together
    document, kind = s.document[slice_of], s.kind[slice_of]
    tokens = colors[document, pairs.tokens[source].long()]
    # a pair's coordinates are those of a first one: index and segment move on to where it stands
    coords = pairs.coords[source].long()                                        # (T, 4)
    coords[:, :2] += torch.stack([s.first_index, 2 * s.pair_index], 1)[slice_of]

    # NO_TARGET, DEMO or QUERY of each token; an output's `end` stands in the output, too
    target_kind = torch.where(coords[:, 1] % 2 == 1, kind, NO_TARGET)
    # token t predicts token t + 1, so all of targets moves one to the left
    targets = torch.full_like(tokens, IGNORE)
    targets[:-1] = torch.where(target_kind[1:] != NO_TARGET, tokens[1:], IGNORE)
    is_query = torch.zeros_like(tokens)
    is_query[:-1] = target_kind[1:] == QUERY
    return Batch(tokens, coords, ready(ends), task_view[document], targets, is_query, document)


# ------------------------------------------------------------------------------------------------
# Training streams. What step i sees follows from (seed, i). `Generated` computes any step alone;
# `FromTasks` draws documents in one long order, so a run that is resumed draws those of the steps
# before again, and skips them.


class TrainingStep(NamedTuple):
    """The documents of one step."""
    number: int                                # of the step, from 0
    pairs: Pairs                               # None while a worker prepares a step of FromTasks
    documents: Documents


def unchanged(item):
    """DataLoader's collate function: steps are ready as they are."""
    return item


def start_worker(_):
    """Makes a process that prepares steps ignore Ctrl-C, and end with the process that trains.

    Ctrl-C reaches every process of a terminal; the main one decides when to stop, and saves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()


def end_with(parent):
    """Ends this process when its parent is gone: else it waits for ever for someone to read."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class Generated:
    """`oned` without end: the tasks of step i are drawn for step i, and none is stored."""
    TRIES = 10000                              # tasks rejected in one step before it gives up
    pairs = ()                                 # generated ones are not kept

    def __init__(self, config, families, banned, name="train"):
        self.config, self.families, self.banned, self.name = config, families, banned, name
        width = oned.widest(families, config.oned_max_width)
        rows = oned.ROWS[1] if config.oned_lift else 1
        widest_pair = pair_length((rows, width), (rows, width))
        if rows > 1 or config.symmetries:
            widest_pair = max(widest_pair, pair_length((width, rows), (width, rows)))
        longest = (min(config.demos, oned.PAIRS - 1) + 1) * widest_pair
        if longest > config.max_len:
            raise UserError(f"generated tasks take up to {longest} tokens, and a document may have "
                            f"max_len = {config.max_len}; raise --max_len, or lower "
                            "--oned_max_width or --demos")

    def documents(self, step):
        """Yields (a document's pairs in a random view, symmetry) without end; none is banned."""
        c = self.config
        rng = np.random.default_rng([c.seed, step])
        widths = c.oned_min_width, c.oned_max_width
        rejected = 0
        for task in oned.stream(f"{self.name}/{c.seed}/{step}", self.families, widths, c.oned_lift):
            symmetry = int(rng.integers(SYMMETRIES)) if c.symmetries else 0
            colors = random_colors(rng) if c.colors else IDENTITY
            pairs = view_pairs([*task.train[:c.demos], *task.test[:1]], symmetry, colors)
            if not any(is_banned(pair, self.banned) for pair in pairs):
                yield pairs, symmetry
                continue
            rejected += 1
            if rejected > self.TRIES:
                raise UserError(f"{self.TRIES} generated tasks in one step hold a pair of val or "
                                "test, or one trained on; raise --oned_max_width, or lower "
                                "--oned_eval")

    def __getitem__(self, step):
        pairs, plans, symmetries, used = [], [], [], 0
        for own, symmetry in self.documents(step):
            for grid, output in own:
                used += pair_length(grid.shape, output.shape)
            if used > self.config.batch_tokens:
                break
            numbers = range(len(pairs), len(pairs) + len(own))
            plans.append(DocumentPlan(numbers, 0, IDENTITY, 0))
            symmetries.append(symmetry)        # the tasks are turned already; this names the view
            pairs += own
        encoded = Pairs(pairs)
        documents = build_documents(encoded, plans)
        documents.task_view[:, 1] = symmetries
        return TrainingStep(step, encoded, documents)

    def steps(self, start, workers):
        """Returns the steps from `start` on, prepared by that many processes."""
        return loader(self, workers, range(start, self.config.max_steps))


def training_stream(config, data, row_of, device):
    """Returns the stream of a run: `steps(start, workers)` gives its TrainingSteps."""
    if data.generated:
        return Generated(config, data.families, data.banned)
    return FromTasks(data, config, row_of, device)


# steps that wait for the device: to order an epoch of ARC takes as long as about 10 (two H100)
PREPARED = 64


def loader(dataset, workers, order=None):
    """Returns an iterator over the steps of a dataset, prepared by that many processes."""
    steps = iter(DataLoader(dataset, batch_size=None, sampler=order, collate_fn=unchanged,
                            num_workers=workers, worker_init_fn=start_worker,
                            prefetch_factor=-(-PREPARED // workers) if workers else None))
    if workers and hasattr(signal, "SIGCHLD"):
        # torch reports a worker's death by an exception anywhere: rather at the next step alone
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return steps


def random_round(value, rng):
    """Returns a whole number that is `value` on average."""
    return int(value) + (value % 1 > 0 and rng.random() < value % 1)


class Drawn(NamedTuple):
    """A document of `FromTasks` that waits for a step."""
    length: int                                # tokens
    pair_numbers: list                         # in Pairs, the query's last
    symmetry: int
    task_number: int


def split_pairs(task, config, data):
    """Returns the known pairs of a task: (those that train.py trains on, those it keeps out).

    `holdout` keeps out nothing of val's and test's tasks. Demonstrations that are left out, as they
    are test pairs of another task, are in neither list.
    """
    trained, kept_out = [], []
    for pair in known_pairs(task):
        if task.id not in data.protected and held_out(pair, config.holdout):
            kept_out.append(pair)
        elif (task.id, pair_key(*pair)) not in data.untrained:
            trained.append(pair)
    return trained, kept_out


class FromTasks(IterableDataset):
    """Tasks from files.

    An epoch has one document of each task; with a task embedding it has as many as show each of
    the task's pairs once, as a query or as a demonstration. `oversample` and `downweight_above`
    change how often. Each document is under a random view. A step is filled from a window of
    documents: the oldest while it fits, then the longest that fits. Every BLOCK steps a new epoch
    begins, which follows from the seed and the step: a resumed run orders the earlier steps of its
    block again, at 1.4 to 2.7 ms each, and builds none of them.
    """
    WINDOW = 64                                # documents
    BLOCK = 4000                               # steps

    def __init__(self, data, config, row_of, device):
        """data: see arc/sources.py."""
        tasks = data.train
        self.config, self.row_of, self.tasks, self.start = config, row_of, tasks, 0
        self.times = [config.oversample if task.id in data.protected else 1.0 for task in tasks]
        pairs, self.numbers = [], []
        for task in tasks:
            own, _ = split_pairs(task, config, data)
            self.numbers.append(list(range(len(pairs), len(pairs) + len(own))))
            pairs += own
        if not pairs:
            reason = f"; holdout = {config.holdout!r} keeps all back" if config.holdout else ""
            raise UserError(f"no training pair is left{reason}")
        self.pairs = pairs                     # every one that it may show
        self.device_pairs = Pairs(pairs, SYMMETRIES if config.symmetries else 1).to(device)
        self.check_lengths(data.lines)
        # pairs that a view may turn into a test pair of val or test, and the keys of these
        self.risky = {p: pairs[p] for p in of_same_form(pairs, data.test_pairs)}
        self.banned = {pair_key(*pair) for pair in data.test_pairs}
        # (pair, symmetry) that equal a test pair in their own colors
        self.leaking = {(p, s) for p, pair in self.risky.items()
                        for s in range(self.device_pairs.length.shape[1])
                        if shows(self.banned, [pair], s, IDENTITY)}
        # colors that stay: without demonstrations in the document, and with
        self.fixed = [(fixed_colors(task, False), fixed_colors(task, True)) for task in tasks]

    def check_lengths(self, lines):
        limit, longest = self.config.max_len, self.device_pairs.length.max(1)
        crowded = sum(np.sort(longest[own])[-1 - self.config.demos:].sum() > limit
                      for own in self.numbers)
        if crowded:
            lines.append(f"max_len = {limit} drops demonstrations of up to {crowded} tasks")
        tasks = [task.id for task, numbers in zip(self.tasks, self.numbers)
                 if any(longest[p] > limit for p in numbers)]
        if tasks:
            raise UserError(f"{len(tasks)} of {len(self.tasks)} tasks have a pair of more than "
                            f"max_len = {limit} tokens: {first_of(tasks)}. --max_len="
                            f"{max(longest)} would take all; or leave them out")

    def split(self, numbers, rng):
        """Returns a task's pairs, shuffled, as documents of at most demos + 1 pairs.

        One document; or, where a task embedding knows the rule too, all pairs in documents of
        random sizes: the network learns to use demonstrations, and to do without.
        """
        order, most = rng.permutation(numbers), self.config.demos + 1
        if not self.config.task_embed:
            return [order[:most]]
        ends = rng.integers(1, most + 1, len(order)).cumsum().tolist()
        return [order[a:b] for a, b in zip([0, *ends], ends) if a < len(order)]

    def epoch(self, rng):
        """Yields one Drawn document after the other."""
        limit, length = self.config.downweight_above, self.device_pairs.length
        mean_length, parts = length.mean(1), []
        for t, numbers in enumerate(self.numbers):
            for _ in range(random_round(self.times[t], rng) if numbers else 0):
                for order in self.split(numbers, rng):
                    keep = min(1, limit / mean_length[order].sum()) if limit else 1
                    if random_round(keep, rng):
                        parts.append((t, order))
        for u in rng.permutation(len(parts)):
            t, order = parts[u]
            s = int(rng.integers(length.shape[1]))
            if any((p, s) in self.leaking for p in order):
                s = 0                          # not turned, where its own colors are safe
            demos, query = order[:-1], order[-1]
            lengths = length[order, s].tolist()
            kept = fit_demos(lengths[:-1], lengths[-1], self.config.max_len)
            used = sum(lengths[k] for k in kept) + lengths[-1]
            yield Drawn(used, [*demos[kept], query], s, t)

    def steps(self, start, workers):
        """Returns the steps from `start` on. Each worker orders all of them and builds its own."""
        planner = copy.copy(self)
        planner.start, planner.device_pairs = start, copy.copy(self.device_pairs)
        # it needs lengths alone: what is on the device is not sent to a process
        del planner.device_pairs.tokens, planner.device_pairs.coords
        return (step._replace(pairs=self.device_pairs) for step in loader(planner, workers))

    def endless(self, rng):
        while True:
            yield from self.epoch(rng)

    def __iter__(self):
        worker = get_worker_info()             # its steps: each num_workers-th
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.start - self.start % self.BLOCK, self.config.max_steps):
            if step % self.BLOCK == 0:
                rng, window = np.random.default_rng([self.config.seed, step]), []
                source = self.endless(rng)
            chosen = self.fill_step(window, source)
            if step >= self.start and (step - self.start) % stride == first:
                plans = [self.plan_document(step, i, drawn) for i, drawn in enumerate(chosen)]
                yield TrainingStep(step, None, build_documents(self.device_pairs, plans))

    def fill_step(self, window, source):
        """Returns a step's documents (Drawn), taken from a window that the source refills."""
        left, chosen = self.config.batch_tokens, []
        while True:
            while len(window) < self.WINDOW:
                window.append(next(source))
            fits = [i for i, drawn in enumerate(window) if drawn.length <= left]
            if not fits:
                return chosen
            oldest_fits = fits[0] == 0
            i = 0 if oldest_fits else max(fits, key=lambda i: window[i].length)
            chosen.append(window.pop(i))
            left -= chosen[-1].length

    def plan_document(self, step, i, drawn):
        """Returns the DocumentPlan of document i of a step, in random colors.

        Colors are drawn up to 8 times, until no pair equals a test pair of val or test. Then the
        pairs' own colors stay, which are safe: the guard and `leaking` have seen to it. One
        exception: a demonstration that equals a test pair of its own task.
        """
        rng = np.random.default_rng([self.config.seed, step, i])
        with_demos = len(drawn.pair_numbers) > 1
        fixed = self.fixed[drawn.task_number][with_demos]
        colors = IDENTITY
        if self.config.colors:
            risky = [self.risky[p] for p in drawn.pair_numbers if p in self.risky]
            colors = allowed_colors(rng, fixed, self.banned, risky, drawn.symmetry)
        task_row = self.row_of.get(self.tasks[drawn.task_number].id, 0)
        if with_demos and rng.random() < 0.1:
            task_row = 0                       # row 0 learns to stand for a task never seen
        return DocumentPlan(drawn.pair_numbers, drawn.symmetry, colors, task_row)
