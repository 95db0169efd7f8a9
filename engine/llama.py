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

# our weight in a block: its name there
BLOCK = {
    "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj",
}


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
    if config.qk_norm:
        wrong.append("--qk_norm=False")        # a Llama's blocks have none
    if wrong:
        raise UserError(f"{path}: another network: set {' '.join(wrong)}")
    ours = dict(head_dim=config.n_embd // config.n_head, hidden_act="silu", attention_bias=False,
                mlp_bias=False, use_qk_norm=False, quantization_config=None)
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


@torch.no_grad()
def copy_weights(model, read, folder):
    """Copies the tensors that read(name) returns, one by one, whatever their dtype."""
    names = {"norm": "model.norm"}
    for layer in range(model.config.n_layer):
        for ours, theirs in BLOCK.items():
            names[f"blocks.{layer}.{ours}"] = f"model.layers.{layer}.{theirs}"
    for ours, name in names.items():
        weight = model.get_parameter(f"{ours}.weight")
        try:
            tensor = read(f"{name}.weight")
        except KeyError:
            raise UserError(f"{folder}: there is no tensor {name}.weight") from None
        if tensor.shape != weight.shape:
            raise UserError(f"{folder}: {name}.weight is {list(tensor.shape)}, and not "
                            f"{list(weight.shape)} as config.json says")
        if not tensor.isfinite().all():
            raise UserError(f"{folder}: {name}.weight is not all numbers; download it again")
        weight.copy_(tensor)
