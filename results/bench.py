"""Training speed: documents laid end to end, and what a step's time goes to.

    python results/bench.py config/quadtree.py [--key=value ...]

A useful token belongs to a document; padding does not. On a CPU the same documents as a padded batch, every one filled up to the
longest, one causal attention call, as a textbook does it, alternate with them in the same run. On CUDA a step's kernels are
listed by kind, beside the rate of a large matrix product on the same chip.
"""
import dataclasses
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import config as knobs                                         # before torch, as in train.py
import numpy as np
import torch
import torch.nn.functional as F

import evaluate
import model as network
import train
from data import oned
from data.batch import Documents, Generated, FromTasks
from replay import repeat

KINDS = {"attention": ("flash", "attention"), "matrix products": ("nvjet", "gemm", "splitK", "cutlass", "cublas"),     # a kernel's name holds one
         "copies": ("Memcpy", "Memset", "CatArray")}


def padded(docs):
    """The same documents, each filled up to the longest with an ignored piece of its own."""
    lengths = docs.lengths()
    fill = [(0, lengths.max() - n, d, 0, 0, 0, 0) for d, n in enumerate(lengths)]
    rows = sorted([*map(tuple, docs.segments), *fill], key=lambda row: (row[2], row[5] == 0))
    return Documents(np.array(rows, np.int64), docs.tables, docs.labels)


def padded_attend(q, k, v, batch, layer):
    B = len(batch.docs) - 1
    q, k, v = (x.unflatten(0, (B, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(0, 1)


class Bench:
    def __init__(self, config):
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        self.config, (self.device, self.why) = config, train.pick_device(config)
        data = train.load_data(config)
        tasks = data["train"]
        frame = config.frame or train.arc.frame_for((tasks or []) + data["val"], oned.widest(data["families"], config.oned_max_width)
                                                    if tasks is None else 1)
        rows = {task.id: i + 1 for i, task in enumerate(tasks or [])} if config.task_embed else {}
        self.source = Generated(config, data["families"], set()) if tasks is None else FromTasks(tasks, config, rows, self.device, data["asked"])
        self.model = network.GPT(train.shape_for(config, frame, len(rows) + 1 if rows else 0)).to(self.device)
        self.optimizer = train.Optimizer(self.model, config)
        self.learn = train.Backward(config, self.model, self.source, self.device)

    def backward(self, item, wide=False):
        if not wide:
            return self.learn(item, self.config.micro_limit())
        pairs, docs = item[0], padded(item[1])
        real, network.attend = network.attend, padded_attend
        self.learn((pairs, docs), int(docs.lengths().sum()))
        network.attend = real

    def update(self):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(1e-4)

    def clock(self, work):
        """-> seconds."""
        begun = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    def steps(self, items):
        for item in items:
            self.backward(item)
            self.update()

    @torch.no_grad()
    def decode(self, B, length, steps=32):
        """Seconds of a decode step: B documents of `length` tokens, one token each."""
        model, device = self.model.eval(), self.device
        cache, token = network.Cache(B, length), torch.randint(10, (B,), device=device)
        place, labels = (torch.tensor(row, device=device).repeat(B, 1) for row in ([length - 1, 1, 2, 3], [0, 0]))
        starts = torch.arange(B + 1, device=device, dtype=torch.int32)
        hs = self.config.n_embd // self.config.n_head
        with evaluate.autocast(self.config, device):
            kind = torch.bfloat16 if torch.is_autocast_enabled(device.type) else torch.float32
            cache.layers = {layer: torch.randn(2, B, cache.span, self.config.n_kv_head, hs, device=device, dtype=kind)
                            for layer in range(self.config.n_layer)}
            step = lambda: token.copy_(model(token, place, starts, labels, cache).argmax(-1))
            work = lambda: repeat(step, steps, device)
            return min(self.clock(work) for _ in range(2)) / steps

    def kernels(self, items):
        """-> (milliseconds of a step by kind of kernel, those of the optimizer apart; {name: milliseconds} of the six longest elementwise ones)."""
        from torch.profiler import ProfilerActivity, profile
        def profiled(work):
            with profile(activities=[ProfilerActivity.CUDA]) as found:
                self.clock(work)
            times, longest = Counter(), Counter()
            for event in found.key_averages():
                kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), "elementwise")
                ms = event.self_device_time_total / 1000 / len(items)
                times[kind] += ms
                longest[event.key] += ms * (kind == "elementwise")
            return times, longest
        (whole, _), (alone, longest) = profiled(lambda: self.steps(items)), profiled(lambda: [self.backward(item) for item in items])
        return {**alone, "optimizer": sum(whole.values()) - sum(alone.values())}, dict(longest.most_common(6))

    def product_rate(self, n=8192):
        """FLOP/s of a large product of random bfloat16 matrices."""
        a, b = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        self.clock(lambda: a @ b)
        return 10 * 2 * n ** 3 / self.clock(lambda: [a @ b for _ in range(10)])


def main(argv, rounds=15):
    config, _ = knobs.load(argv or ["config/quadtree.py"])
    config = dataclasses.replace(config, max_steps=max(config.max_steps, rounds))
    bench = Bench(config)
    stream = iter(bench.source.stream(0, 0))
    begun = time.perf_counter()
    items = [next(stream) for _ in range(rounds)]
    prepared = (time.perf_counter() - begun) / rounds
    tokens = np.mean([docs.lengths().sum() for _, docs in items])
    for item in items[:3]:                                     # warm-up
        bench.steps([item])
    network_parameters, tables = bench.model.counts()
    print(f"{bench.device.type} ({bench.why}); {network_parameters:,} parameters and {tables:,} in embedding tables; "
          f"{tokens:.0f} useful tokens a step, {100 * tokens / (config.batch_tokens if bench.learn.static else tokens):.1f}% of what is computed; {rounds} steps")
    parts = {name: statistics.median(values) for name, values in zip(("backward", "update"), zip(*[
        (bench.clock(lambda: bench.backward(item)), bench.clock(bench.update)) for item in items]))}
    print(f"preparing a batch   {1000 * prepared:8.1f} ms, while the device works where it is a GPU")
    print(f"forward, backward   {1000 * parts['backward']:8.1f} ms {tokens / parts['backward']:9.0f} tok/s")
    print(f"clip and optimizer  {1000 * parts['update']:8.1f} ms")
    step = bench.clock(lambda: bench.steps(items)) / rounds    # without waiting in between
    flops = 6 * network_parameters * tokens
    print(f"whole step          {1000 * step:8.1f} ms {tokens / step:9.0f} useful tok/s, {flops / step / 1e12:.2f} TFLOP/s in the products with parameters")
    if bench.device.type == "cpu":
        narrow, wide = zip(*[(bench.clock(lambda: bench.backward(item)), bench.clock(lambda: bench.backward(item, wide=True))) for item in items])
        print(f"padded batches      {1000 * statistics.median(wide):8.1f} ms {tokens / statistics.median(wide):9.0f} useful tok/s in forward and backward; "
              f"{np.mean([docs.lengths().sum() / padded(docs).lengths().sum() for _, docs in items]):.0%} of the tokens are useful")
        print(f"end to end / padded = {statistics.median(w / n for n, w in zip(narrow, wide)):.2f}x")
    if bench.device.type == "cuda":
        print(f"peak memory         {torch.cuda.max_memory_reserved() / 2 ** 30:8.1f} GiB in training, what torch holds in reserve included")
    for B, length in ((64, 256), (1024, 704)) if bench.device.type == "cuda" else ((128, 128),):
        print(f"decode step         {1000 * bench.decode(B, min(length, config.max_len)):8.1f} ms for {B} documents of {min(length, config.max_len)} tokens")
    if bench.device.type == "cuda":
        rate = bench.product_rate()
        print(f"a large product reaches {rate / 1e12:.0f} TFLOP/s here: the step is at {flops / step / rate:.0%} of it")
        kinds, longest = bench.kernels(items)
        print("kernels, ms a step: " + ", ".join(f"{kind} {ms:.1f}" for kind, ms in kinds.items()))
        print("the longest elementwise ones: " + ", ".join(f"{name[:60]} {ms:.2f}" for name, ms in longest.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
