"""One run in several processes, one a device: `torchrun --nproc_per_node=N train.py config/...`.

Every rank holds the whole network and takes its share of each step's documents; gradients are
summed, and all ranks take the same step. Predictions are shared out, too. Rank 0 alone writes.
"""
import contextlib
import os
import re
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from config import UserError

TIMEOUT = timedelta(minutes=10)
HOST = None                                    # the group in which ranks meet by gloo: see `join`


def rank():
    """Returns the number of this process, as torchrun gives it."""
    return int(os.environ.get("RANK") or 0)


def world():
    """Returns the number of ranks, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def take_gpu():
    """Makes the GPU of this process torch's current one, where torchrun started several."""
    local, here = int(os.environ.get("LOCAL_RANK") or 0), torch.cuda.device_count()
    if local >= max(1, here):
        raise UserError(f"{here} CUDA devices are here: start torchrun with --nproc_per_node of at "
                        "most as many")
    if local:
        torch.cuda.set_device(local)


def join(device):
    """Meets the other ranks that torchrun started.

    Gradients travel between the devices, by nccl on CUDA; all else between the hosts, by gloo.
    """
    global HOST
    if int(os.environ.get("WORLD_SIZE") or 1) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        HOST = dist.new_group(backend="gloo", timeout=TIMEOUT)


def leave():
    """Ends the meeting when every rank is here.

    A process that just ends may abort, and torchrun then ends the others.
    """
    if dist.is_initialized():
        wait_for_all()
        dist.destroy_process_group()


def share(lengths):
    """Returns the numbers of this rank's documents: about as many tokens as every other rank's.

    lengths: tokens of all documents, (D,). The longest first, each to the rank that has least.
    """
    loads, own = np.zeros(world()), []
    for d in np.argsort(-lengths, kind="stable"):
        least = loads.argmin()
        loads[least] += lengths[d]
        if least == rank():
            own.append(d)
    return np.sort(np.array(own, int))


def tokens_at_once(config):
    """Returns how many tokens a rank processes at once at most, a little above an even share.

    `share` comes within 82 tokens of even: ARC-1's documents, 2 to 8 ranks, 300 steps. A rank that
    has more takes a second micro-batch.
    """
    even = -(-config.batch_tokens // world())
    room = (-(-even // 128) + 1) * 128
    return min(config.micro_limit(), max(config.max_len, room))


def sum_gradients(parameters, losses):
    """Sums gradients and losses over all ranks, in place. Returns the summed losses."""
    if world() == 1:
        return losses
    trained = [p for p in parameters if p.requires_grad]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flat = torch.cat([losses, *(grad.flatten() for grad in grads)])
    with naming_missing_ranks():
        dist.all_reduce(flat)
    losses, *parts = flat.split([len(losses), *(p.numel() for p in trained)])
    for p, part in zip(trained, parts):
        p.grad = part.view_as(p)
    return losses


def everyones(results):
    """Yields the results of all ranks, from this rank's own."""
    if world() == 1:
        yield from results
        return
    found = [None] * world()
    own = list(results)
    with naming_missing_ranks():
        dist.all_gather_object(found, own, group=HOST)
    for part in found:
        yield from part


def wait_for_all():
    """Returns when every rank is here."""
    if world() > 1:
        with naming_missing_ranks():
            dist.monitored_barrier(HOST, TIMEOUT, wait_all_ranks=True)


class Agreement:
    """The largest number of all ranks, one call later: so no rank waits for the others."""

    def __init__(self):
        self.pending = None

    def __call__(self, number):
        """Returns the largest number of all ranks' last call; with one rank its own, at once."""
        if world() == 1:
            return number
        agreed = 0
        if self.pending:
            work, tensor = self.pending
            with naming_missing_ranks():
                work.wait()
            agreed = int(tensor)
        tensor = torch.tensor(number)
        self.pending = dist.all_reduce(tensor, dist.ReduceOp.MAX, HOST, async_op=True), tensor
        return agreed


@contextlib.contextmanager
def naming_missing_ranks():
    """UserError where a rank died, or does not come."""
    try:
        yield
    except RuntimeError as error:              # gloo's: closed connections and time that is up
        missing = re.search(r"[Rr]anks? [\d, ]+\d", str(error))
        missing = missing.group() if missing else "another rank"
        raise UserError(f"{missing} died, or did not come in {TIMEOUT}. What was saved is kept: "
                        "start all again with --resume") from None
