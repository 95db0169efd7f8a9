"""Training speed: documents laid end to end against a padded batch of the same documents, alternating in one run.

    python results/bench.py config/quadtree.py [--key=value ...]

A useful token belongs to a document; padding does not. Both do the same arithmetic on useful tokens; the padded batch is what
a textbook implementation does: every document filled up to the longest of the batch, one causal attention call.
"""
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import numpy as np
import torch
import torch.nn.functional as F

import config as knobs
import model as network
import train
from data import oned
from data.batch import Documents, Generated, FromTasks


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


def main(argv, rounds=15):
    config, _ = knobs.load(argv or ["config/quadtree.py"])
    device, why = train.pick_device(config)
    torch.manual_seed(0)
    data = train.load_data(config)
    frame = config.frame or train.arc.frame_for((data["train"] or []) + data["val"], oned.widest(data["families"], config.oned_max_width)
                                                if data["train"] is None else 1)
    rows = {task.id: i + 1 for i, task in enumerate(data["train"] or [])} if config.task_embed else {}
    source = Generated(config, data["families"], set()) if data["train"] is None else FromTasks(data["train"], config, rows, device)
    model = network.GPT(train.shape_for(config, frame, len(rows) + 1 if rows else 0)).to(device)
    optimizer = train.Optimizer(model, config)
    fast, static = train.compiled(model, config, device)
    items = iter(source.stream(0, 0))
    times, useful, share, attend = {"end to end": [], "padded": [], "optimizer": [], "data": []}, 0, [], network.attend

    def measure(name, work):
        begun = time.perf_counter()
        out = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times[name].append(time.perf_counter() - begun)
        return out

    for i in range(rounds + 3):
        pairs, docs = measure("data", lambda: next(items))
        lengths = docs.lengths()
        measure("end to end", lambda: train.backward(config, fast, source, (pairs, docs), config.micro_limit(), device, static))
        measure("optimizer", lambda: optimizer.step(1e-4))
        if device.type == "cpu":
            network.attend = padded_attend
            wide = padded(docs)
            measure("padded", lambda: train.backward(config, model, source, (pairs, wide), int(wide.lengths().sum()), device, None))
            network.attend = attend
            optimizer.zero_grad()
            share.append(lengths.sum() / wide.lengths().sum())
        if i < 3:                                              # warm-up
            times = {name: [] for name in times}
        else:
            useful += lengths.sum()
    network_parameters, tables = model.counts()
    median = {name: statistics.median(values) for name, values in times.items() if values}
    tokens = useful / rounds
    print(f"{device.type} ({why}); {network_parameters + tables:,} parameters; {tokens:.0f} useful tokens a step, median of {rounds} steps")
    print(f"whole step        {tokens / (median['data'] + median['end to end'] + median['optimizer']):8.0f} useful tok/s "
          f"({1000 * median['data']:.1f} ms data, {1000 * median['end to end']:.1f} ms forward and backward, "
          f"{1000 * median['optimizer']:.1f} ms optimizer)")
    print(f"end to end        {tokens / median['end to end']:8.0f} useful tok/s in forward and backward; "
          f"{100 if not static else 100 * tokens / config.batch_tokens:.1f}% of the tokens are useful")
    if "padded" in median:
        print(f"padded            {tokens / median['padded']:8.0f} useful tok/s in forward and backward; "
              f"{np.mean(share):.1%} of the tokens are useful")
        print(f"end to end / padded = {median['padded'] / median['end to end']:.2f}x")


if __name__ == "__main__":
    main(sys.argv[1:])
