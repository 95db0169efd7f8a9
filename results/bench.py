"""Training speed: documents laid end to end, and what the time of a step goes to.

    python results/bench.py config/quadtree.py [--key=value ...]

A useful token belongs to a document; padding does not. On a CPU the same documents are also run as
a padded batch, as a textbook does it: each filled up to the longest, one causal attention call. The
two alternate in the same run. On CUDA the kernels of a step are listed by kind, beside the rate of
a large matmul on the same chip.
"""
import dataclasses
import statistics
import sys
import time
from collections import Counter

import runs                                    # noqa: F401  first: it finds the project
from config import load_config                 # before torch: it says how torch takes memory
import numpy as np
import torch
import torch.nn.functional as F

import model as network
from arc.leaks import task_key
from arc.sources import load_data
from engine.batches import PairSlices
from engine.checkpoints import model_config, task_rows
from engine.cuda_graphs import run_steps
from engine.devices import autocast, pick_device
from engine.optim import Optimizer
from engine.batches import training_stream
from train import ForwardBackward, choose_canvas

KINDS = {                                      # of kernels; a name holds one of these
    "attention": ("flash", "attention"),
    "matmuls": ("nvjet", "gemm", "splitK", "cutlass", "cublas"),
    "copies": ("Memcpy", "Memset", "CatArray"),
}


def padded(documents):
    """Returns the documents, each filled up to the longest with a segment that is ignored."""
    lengths = documents.lengths()
    rows = list(zip(*documents.slices))
    for d, length in enumerate(lengths):
        rows.append((0, lengths.max() - length, d, 0, 0, 0, 0))        # kind 0: filler
    rows.sort(key=lambda row: (row[2], row[5] == 0))                   # by document, filler last
    return documents._replace(slices=PairSlices(*np.array(rows, np.int64).T))


def padded_attend(q, k, v, context):
    """Attention of documents of one length, as model.attend. (T, heads, hs) each."""
    B = len(context.cu_seqlens) - 1
    # (B, heads, T / B, hs)
    q, k, v = (x.unflatten(0, (B, -1)).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).flatten(0, 1)


class Bench:
    """A network, its optimizer and its training steps, and what takes their time."""

    def __init__(self, config):
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        self.config = config
        self.device, self.why = pick_device(config)
        data = load_data(config)
        task_ids = []
        if config.task_embed:
            task_ids = [(task.id, task_key(task)) for task in data.train]
        rows = task_rows(task_ids, data.train)
        self.stream = training_stream(config, data, rows, self.device)
        canvas = choose_canvas(config, data, None)
        n_tasks = len(task_ids) + 1 if task_ids else 0
        self.model = network.GPT(model_config(config, canvas, n_tasks)).to(self.device)
        self.optimizer = Optimizer(self.model, config)
        self.forward_backward = ForwardBackward(config, self.model, self.device)

    def backward(self, step):
        self.forward_backward(step, self.config.micro_limit())

    def padded_backward(self, step):
        """The same, as a padded batch. CPU only."""
        documents = padded(step.documents)
        original, network.attend = network.attend, padded_attend
        try:
            tokens = int(documents.lengths().sum())
            self.forward_backward(step._replace(documents=documents), tokens)
        finally:
            network.attend = original

    def update(self):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(1e-4)

    def train(self, steps):
        for step in steps:
            self.backward(step)
            self.update()

    def seconds(self, work, *arguments):
        """Returns the seconds that work(*arguments) takes."""
        started = time.perf_counter()
        work(*arguments)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    @torch.no_grad()
    def decode_step(self, B, length, times=32):
        """Returns the seconds of a decode step: B documents of `length` tokens, one token each."""
        c, model, device = self.config, self.model.eval(), self.device
        cache = network.Cache(B, length)
        token = torch.randint(10, (B,), device=device)
        position = torch.tensor([length - 1, 1, 2, 3], device=device).repeat(B, 1)
        task_view = torch.zeros(B, 2, dtype=torch.long, device=device)

        def step():
            token.copy_(model(token, position, None, task_view, cache).argmax(-1))
        with autocast(c, device):
            dtype = torch.bfloat16 if torch.is_autocast_enabled(device.type) else torch.float32
            size = 2, B, cache.capacity, c.n_kv_head, c.n_embd // c.n_head
            cache.layers = [torch.randn(size, device=device, dtype=dtype)
                            for _ in range(c.n_layer)]
            return min(self.seconds(run_steps, step, times, device) for _ in range(2)) / times

    def profile(self, work, argument, count):
        """Returns milliseconds of a step by kind of kernel, and by name of elementwise kernels."""
        from torch.profiler import ProfilerActivity, profile
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            self.seconds(work, argument)
        by_kind, elementwise = Counter(), Counter()
        for event in found.key_averages():
            ms = event.self_device_time_total / 1000 / count
            kind = "elementwise"
            for name, parts in KINDS.items():
                if any(part in event.key for part in parts):
                    kind = name
                    break
            by_kind[kind] += ms
            if kind == "elementwise":
                elementwise[event.key] += ms
        return by_kind, elementwise

    def kernels(self, steps):
        """Returns (milliseconds of a step by kind of kernel, those of the six longest elementwise).

        The optimizer is a kind of its own.
        """
        whole, _ = self.profile(self.train, steps, len(steps))
        by_kind, elementwise = self.profile(lambda steps: [self.backward(step) for step in steps],
                                            steps, len(steps))
        optimizer = sum(whole.values()) - sum(by_kind.values())
        return {**by_kind, "optimizer": optimizer}, dict(elementwise.most_common(6))

    def matmul_rate(self, n=8192, times=10):
        """Returns FLOP/s of a large product of random bfloat16 matrices."""
        a, b = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))

        def multiply(times):
            for _ in range(times):
                a @ b
        self.seconds(multiply, 1)
        return times * 2 * n ** 3 / self.seconds(multiply, times)


def measure_steps(bench, steps, tokens):
    """Times the parts of a step, prints them. Returns FLOP/s in the matmuls with parameters."""
    backward, update = [], []
    for step in steps:
        backward.append(bench.seconds(bench.backward, step))
        update.append(bench.seconds(bench.update))
    backward, update = statistics.median(backward), statistics.median(update)
    print(f"forward, backward   {1000 * backward:8.1f} ms {tokens / backward:9.0f} tok/s")
    print(f"clip and optimizer  {1000 * update:8.1f} ms")
    if bench.device.type == "cuda":            # two steps fit in the queue of launches
        started = time.perf_counter()
        bench.train(steps[:2])
        launching = (time.perf_counter() - started) / 2
        torch.cuda.synchronize()
        print(f"launched in         {1000 * launching:8.1f} ms of the host: no step is shorter")
    whole = bench.seconds(bench.train, steps) / len(steps)             # without waiting in between
    parameters, _ = bench.model.count_parameters()
    rate = 6 * parameters * tokens / whole
    print(f"whole step          {1000 * whole:8.1f} ms {tokens / whole:9.0f} useful tok/s, "
          f"{rate / 1e12:.2f} TFLOP/s in the matmuls with parameters")
    return rate


def measure_padding(bench, steps, tokens):
    """Times the same documents end to end and padded, in turn, and prints how they compare."""
    ratios, wide, useful = [], [], []
    for step in steps:
        narrow = bench.seconds(bench.backward, step)
        wide.append(bench.seconds(bench.padded_backward, step))
        ratios.append(wide[-1] / narrow)
        documents = step.documents
        useful.append(documents.lengths().sum() / padded(documents).lengths().sum())
    seconds = statistics.median(wide)
    print(f"padded batches      {1000 * seconds:8.1f} ms {tokens / seconds:9.0f} useful tok/s in "
          f"forward and backward; {np.mean(useful):.0%} of the tokens are useful")
    print(f"end to end / padded = {statistics.median(ratios):.2f}x")


def measure_kernels(bench, steps, step_rate):
    rate = bench.matmul_rate()
    print(f"a large matmul reaches {rate / 1e12:.0f} TFLOP/s here: the step is at "
          f"{step_rate / rate:.0%} of it")
    by_kind, longest = bench.kernels(steps)
    kinds = ", ".join(f"{kind} {ms:.1f}" for kind, ms in by_kind.items())
    print(f"kernels, ms a step: {kinds}")
    names = ", ".join(f"{name[:60]} {ms:.2f}" for name, ms in longest.items())
    print(f"the longest elementwise ones: {names}")


def main(argv, rounds=15):
    config, _ = load_config(argv or ["config/quadtree.py"])
    config = dataclasses.replace(config, max_steps=max(config.max_steps, rounds))
    bench = Bench(config)
    on_cuda = bench.device.type == "cuda"
    stream = iter(bench.stream.steps(0, 0))
    started = time.perf_counter()
    steps = [next(stream) for _ in range(rounds)]
    prepared = (time.perf_counter() - started) / rounds
    tokens = np.mean([step.documents.lengths().sum() for step in steps])
    bench.train(steps[:3])                     # warm-up

    parameters, tables = bench.model.count_parameters()
    computed = config.batch_tokens if bench.forward_backward.compiled else tokens
    print(f"{bench.device.type} ({bench.why}); {parameters:,} parameters and {tables:,} in "
          f"embedding tables; {tokens:.0f} useful tokens a step, {100 * tokens / computed:.1f}% of "
          f"what is computed; {rounds} steps")
    print(f"preparing a batch   {1000 * prepared:8.1f} ms, while the device works if it is a GPU")
    rate = measure_steps(bench, steps, tokens)
    if bench.device.type == "cpu":
        measure_padding(bench, steps, tokens)
    if on_cuda:
        reserved = torch.cuda.max_memory_reserved() / 2 ** 30
        print(f"peak memory         {reserved:8.1f} GiB in training, all that torch reserves")
    for B, length in ((64, 256), (1024, 704)) if on_cuda else ((128, 128),):
        length = min(length, config.max_len)
        ms = 1000 * bench.decode_step(B, length)
        print(f"decode step         {ms:8.1f} ms for {B} documents of {length} tokens")
    if on_cuda:
        measure_kernels(bench, steps, rate)


if __name__ == "__main__":
    main(sys.argv[1:])
