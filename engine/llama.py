"""The blocks and the final norm of a pretrained Llama, from a local Hugging Face folder.

Rotary positions need no permutation: such a folder turns the pairs (i, i + hs / 2) as
`model.apply_rotary` does, and not Meta's own neighbors. Llama's norms add 1e-5 or 1e-6 to a mean
square, ours 1e-7: next to nothing, as our embedded tokens start with a mean square of 0.5 to 1.
"""
import json
from pathlib import Path

import torch

from config import UserError
from positions.rope import Rope

# our knob: its name in config.json
SIZES = dict(n_layer="num_hidden_layers", n_embd="hidden_size", n_mlp="intermediate_size",
             n_head="num_attention_heads", n_kv_head="num_key_value_heads")


def check_llama(folder, config):
    """UserError where a folder's config.json describes another network than the config."""
    path, own = Path(folder, "config.json"), Path(folder, "ckpt.pt")
    if own.is_file():
        raise UserError(f"{folder}: a run's folder; name the checkpoint: --init_from={own}")
    try:
        found = json.loads(path.read_bytes())
        kind = found.get("model_type")
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{path}: missing or not readable; --init_from takes a checkpoint, or a "
                        "Hugging Face folder with config.json and model.safetensors") from None
    if kind != "llama":
        raise UserError(f"{path}: model_type = {kind!r}, and only 'llama' has blocks like ours")
    found.setdefault("num_key_value_heads", found.get("num_attention_heads"))    # before Llama 2
    wrong = [f"--{ours}={found.get(theirs)}" for ours, theirs in SIZES.items()
             if found.get(theirs) != getattr(config, ours)]
    if wrong:
        raise UserError(f"{path}: a network of other sizes: set {' '.join(wrong)}")
    ours = dict(head_dim=config.n_embd // config.n_head, hidden_act="silu", attention_bias=False,
                mlp_bias=False, quantization_config=None)
    for key, value in ours.items():
        if found.get(key, value) not in (None, value):
            raise UserError(f"{path}: {key} = {found[key]!r}, and our blocks know only {value!r}")
    # transformers 5 has one entry, earlier ones have two
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    base = rope.get("rope_theta", found.get("rope_theta", Rope.base))
    if "rope" in config.encoding.split("+") and (kind, base) != ("default", Rope.base):
        raise UserError(f"{path}: rotary positions of type {kind!r} and rope_theta = {base}, and "
                        f"the encoding rope has 'default' and {Rope.base}: take another Llama, or "
                        "another --encoding=, whose positions the blocks have yet to learn")


def load_llama(model, folder):
    """Gives a GPT the blocks and the final norm of a folder that `check_llama` let pass."""
    files = open_files(Path(folder))
    copy_weights(model, lambda name: files[name].get_tensor(name), folder)
    model.config.pretrained = str(Path(folder))    # without a / at the end


def open_files(folder):
    """Returns {name of a tensor: the open file that holds it}, of one file or of several."""
    try:
        from safetensors import safe_open
    except ImportError:
        raise UserError(f"{folder}: to read it takes the package safetensors: pip install "
                        "safetensors") from None
    names, path, found = ["model.safetensors"], folder / "model.safetensors.index.json", {}
    try:
        if path.exists():
            names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
        for path in map(folder.joinpath, names):
            file = safe_open(path, "pt")
            found.update(dict.fromkeys(file.keys(), file))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: download it, or have transformers write it: "
                        f"AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained("
                        "NEW_FOLDER)") from None
    except Exception as error:                 # whatever is made of a file cut short
        raise UserError(f"{path}: damaged, download it again ({error})") from None
    return found


def block_weights(config):
    """Returns {our weight in a block: {Hugging Face's, which lie below each other: rows}}."""
    C, n_mlp, kv = config.n_embd, config.n_mlp, config.n_embd // config.n_head * config.n_kv_head
    return {
        "norm1": {"input_layernorm": C},
        "attention.qkv": {"self_attn.q_proj": C, "self_attn.k_proj": kv, "self_attn.v_proj": kv},
        "attention.wo": {"self_attn.o_proj": C},
        "norm2": {"post_attention_layernorm": C},
        "mlp.gate_up": {"mlp.gate_proj": n_mlp, "mlp.up_proj": n_mlp},
        "mlp.down": {"mlp.down_proj": C},
    }


@torch.no_grad()
def copy_weights(model, read, folder):
    """Copies the tensors that read(name) returns, one by one, whatever their dtype."""
    copies = [("norm", {"model.norm": model.config.n_embd})]
    for layer in range(model.config.n_layer):
        for ours, rows in block_weights(model.config).items():
            theirs = {f"model.layers.{layer}.{name}": n for name, n in rows.items()}
            copies.append((f"blocks.{layer}.{ours}", theirs))
    for ours, rows in copies:
        weight = model.get_parameter(f"{ours}.weight")
        for name, part in zip(rows, weight.split(list(rows.values()))):
            try:
                tensor = read(f"{name}.weight")
            except KeyError:
                raise UserError(f"{folder}: there is no tensor {name}.weight") from None
            if tensor.shape != part.shape:
                raise UserError(f"{folder}: {name}.weight is {list(tensor.shape)}, and not "
                                f"{list(part.shape)} as config.json says")
            if not tensor.isfinite().all():
                raise UserError(f"{folder}: {name}.weight is not all numbers; download it again")
            part.copy_(tensor)
