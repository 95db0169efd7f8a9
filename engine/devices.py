"""The device of a run, its dtype, and memory that runs out."""
import math
import os

import torch

from config import UserError
from engine import ranks
from model import GPT, has_flash_attention


def has_bfloat16(device):
    """Returns whether an NVIDIA GPU computes in bfloat16 itself: since Ampere."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def pick_device(config):
    """Returns (torch device, why this one)."""
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if config.device and config.device not in available:
        raise UserError(f"device {config.device!r} is not here; there is {', '.join(available)}")
    device = torch.device(config.device or available[0])
    if device.type == "cuda":
        ranks.take_gpu()
        why = torch.cuda.get_device_name() + "; flash attention 3" * take_flash_attention_3()
        if config.dtype == "bfloat16" and not has_bfloat16(device):
            raise UserError(f"{why} does not compute in bfloat16: leave out --dtype=bfloat16")
    elif device.type == "mps":
        why = "Apple GPU; this code was never run on one"
    else:
        why = f"{torch.get_num_threads()} threads"
        if available == ["cpu"]:
            why += "; no CUDA and no MPS device here"
    ranks.join(device)
    if ranks.world() > 1:
        why += f"; {ranks.world()} ranks"
    return device, why + ("; as asked" if config.device else "")


def n_workers(config, device):
    """Returns how many processes prepare steps: as asked, else 4 at most, and none for a CPU."""
    if config.workers >= 0:
        return config.workers
    return min(4, os.cpu_count() or 1) if device.type == "cuda" else 0


def check_memory(model_config, device):
    """UserError where the network, its gradients and optimizer are larger than all the memory."""
    with torch.device("meta"):                 # sizes alone
        parameters = sum(p.numel() for p in GPT(model_config).parameters())
    memory = math.inf                          # bytes
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = 16 * parameters                   # weight, gradient and two states, float32 each
    if needed > memory:
        raise UserError(f"a network of {parameters:,} parameters takes {needed / 2**30:.0f} GiB in "
                        f"training, and {device.type} has {memory / 2**30:.0f}: lower --n_embd, "
                        "--n_mlp, --n_layer, --demos or --max_len")


def precision(config, device):
    """Returns torch's dtype of matmuls: as asked, or what the device is fast in."""
    default = "bfloat16" if has_bfloat16(device) else "float32"
    return getattr(torch, config.dtype or default)


def autocast(config, device):
    enabled = precision(config, device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def is_compiled(config, device):
    """Returns whether a training step is compiled and recorded, with batches of one size."""
    return config.compile and has_flash_attention(device, precision(config, device))


def describe_step(config, device):
    """Returns what the log says of a training step's speed, on CUDA."""
    if device.type != "cuda":
        return ""
    if is_compiled(config, device):
        return "; compiled and recorded"
    if has_flash_attention(device, precision(config, device)):
        return "; eager, as asked"
    return ("; eager and slow: compiling takes --dtype=bfloat16, torch 2.11 and an Ampere GPU or a "
            "later one")


def take_flash_attention_3():
    """Makes attention use flash attention 3, where the GPU is a Hopper and its package is here.

    The package has to be built: github.com/Dao-AILab/flash-attention, folder hopper.
    """
    if torch.cuda.get_device_capability()[0] != 9:
        return False
    try:
        torch.nn.attention.activate_flash_attention_impl("FA3")
    except (AttributeError, ImportError, RuntimeError):      # an older torch; no such package
        return False
    return True


def is_out_of_memory(error):
    text = str(error)
    return (isinstance(error, torch.OutOfMemoryError) or "out of memory" in text
            or "can't allocate memory" in text)


def in_smaller_parts(work, parts, knob, log):
    """Yields (part, work(part)) for lists of documents; where memory runs out, for their halves.

    knob: which one makes the parts smaller.
    """
    for part in parts:
        try:
            result = work(part)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise UserError("out of memory with a single document: lower --max_answer, "
                                "--max_len, --n_embd or --n_layer") from None
        else:
            yield part, result
            continue
        # not within `except`, which keeps alive all that the attempt had made
        torch.cuda.empty_cache()               # torch does so itself, but not while it records
        log(f"  out of memory with {len(part)} documents at once: half of them (a lower --{knob} "
            "starts that way)")
        half = len(part) // 2
        yield from in_smaller_parts(work, [part[:half], part[half:]], knob, log)
