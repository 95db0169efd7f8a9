"""Llama: the same network as written out in plain torch and as transformers has it; its folders."""
import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from config import Config, UserError
from conftest import (batch_of, checkpoint, equal, filled_model, flip_tasks, records, tiny_config,
                      write_tasks)
from engine.llama import check_llama, copy_weights, load_llama, open_files
from model import GPT

# heads of 8 that share 2 keys, 3 layers; Hugging Face's names and ours
THEIRS = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2,
              intermediate_size=96)
OURS = dict(n_embd=64, n_layer=3, n_head=8, n_kv_head=2, n_mlp=96, encoding="rope")
CONFIG = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu",
              attention_bias=False, rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None,
              torch_dtype="bfloat16", **THEIRS)
EPS = torch.finfo(torch.float32).eps           # of our norms


def llama_weights(seed=0):
    """Returns random tensors of a small Llama under Hugging Face's names, token tables too."""
    rng, C, kv = np.random.RandomState(seed), 64, 16
    shapes = {"model.embed_tokens": (14, C), "lm_head": (14, C), "model.norm": (C,)}
    for layer in range(3):
        block = {"self_attn.q_proj": (C, C), "self_attn.k_proj": (kv, C),
                 "self_attn.v_proj": (kv, C), "self_attn.o_proj": (C, C),
                 "mlp.gate_proj": (96, C), "mlp.up_proj": (96, C), "mlp.down_proj": (C, 96),
                 "input_layernorm": (C,), "post_attention_layernorm": (C,)}
        shapes.update({f"model.layers.{layer}.{name}": shape for name, shape in block.items()})
    tensors = {}
    for name, shape in shapes.items():
        values = torch.from_numpy(rng.standard_normal(shape)).float()
        values = 1 + values / 10 if len(shape) == 1 else values / shape[1] ** 0.5
        tensors[f"{name}.weight"] = values
    return tensors


def with_llama(tensors):
    """Returns our network with these blocks, this head and these token tables, no segments."""
    model = filled_model(tiny_config(**OURS))
    copy_weights(model, tensors.__getitem__, "folder")
    with torch.no_grad():
        model.token.weight.copy_(tensors["model.embed_tokens.weight"])
        model.head.weight.copy_(tensors["lm_head.weight"])
        model.segment.weight.zero_()
    return model


def documents(batch, values):
    return values.split(batch.cu_seqlens.diff().tolist())


def our_logits(model, batch):
    return model(batch.tokens, batch.coords, batch.cu_seqlens, batch.task_view)


# ------------------------------------------------------------------------------------------------
# The network


def rms_norm(x, weight, eps):
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def half_split_rotary(x):
    """Turns the pairs (x[i], x[i + hs / 2]) of (heads, n, hs) by n * theta^(-2 i / hs)."""
    heads, n, hs = x.shape
    inv_freq = 10000.0 ** (-torch.arange(0, hs, 2) / hs)
    angle = torch.arange(n)[:, None] * inv_freq
    first, second = x[..., :hs // 2], x[..., hs // 2:]
    return torch.cat([first * angle.cos() - second * angle.sin(),
                      second * angle.cos() + first * angle.sin()], -1)


def interleaved_rotary(x):
    """The pairs (x[2 i], x[2 i + 1]) instead, as in Meta's own files."""
    hs = x.shape[-1]
    halves = torch.cat([torch.arange(0, hs, 2), torch.arange(1, hs, 2)])
    return half_split_rotary(x[..., halves])[..., halves.argsort()]


def plain_llama(tensors, x, rotary=half_split_rotary, eps=EPS):
    """Returns the logits of one document of embedded tokens x (n, C): Llama (arXiv 2302.13971).

    Written from the equations, with nothing of model.py.
    """
    n, C = x.shape
    heads, kv_heads = 8, 2
    unseen = torch.ones(n, n).triu(1).bool()
    for layer in range(3):
        w = {name.split(f"layers.{layer}.")[1]: tensor for name, tensor in tensors.items()
             if f"layers.{layer}." in name}
        h = rms_norm(x, w["input_layernorm.weight"], eps)
        q = (h @ w["self_attn.q_proj.weight"].T).view(n, heads, -1).transpose(0, 1)
        k = (h @ w["self_attn.k_proj.weight"].T).view(n, kv_heads, -1).transpose(0, 1)
        v = (h @ w["self_attn.v_proj.weight"].T).view(n, kv_heads, -1).transpose(0, 1)
        q, k = rotary(q), rotary(k)
        k, v = (t.repeat_interleave(heads // kv_heads, 0) for t in (k, v))
        scores = q @ k.transpose(1, 2) / (C / heads) ** 0.5
        probabilities = scores.masked_fill(unseen, -torch.inf).softmax(-1)
        attended = (probabilities @ v).transpose(0, 1).reshape(n, C)
        x = x + attended @ w["self_attn.o_proj.weight"].T
        h = rms_norm(x, w["post_attention_layernorm.weight"], eps)
        gate, up = h @ w["mlp.gate_proj.weight"].T, h @ w["mlp.up_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * up) @ w["mlp.down_proj.weight"].T
    return rms_norm(x, tensors["model.norm.weight"], eps) @ tensors["lm_head.weight"].T


def plain_logits(tensors, batch, **options):
    """Returns the logits of a batch's documents, one after the other."""
    embedded = tensors["model.embed_tokens.weight"][batch.tokens]
    return torch.cat([plain_llama(tensors, x, **options) for x in documents(batch, embedded)])


@torch.no_grad()
def test_the_network_is_llama_written_out():
    tensors, batch = llama_weights(), batch_of(flip_tasks(2))
    logits = our_logits(with_llama(tensors), batch)
    assert logits.std() > 0.5
    assert (logits - plain_logits(tensors, batch)).abs().max() < 1e-5
    # the other convention of rotary pairs would be seen
    other = plain_logits(tensors, batch, rotary=interleaved_rotary)
    assert (logits - other).abs().max() > 0.1


@torch.no_grad()
def test_the_larger_epsilon_of_llama_changes_next_to_nothing():
    """On embedded tokens of the size that ours start with, which a Llama's own do not have."""
    tensors, batch = llama_weights(), batch_of(flip_tasks(2))
    tensors["model.embed_tokens.weight"] *= 0.7 / tensors["model.embed_tokens.weight"].std()
    logits, other = (plain_logits(tensors, batch, eps=eps) for eps in (EPS, 1e-5))
    assert 0 < (logits - other).abs().max() < 3e-4


@torch.no_grad()
def test_the_network_is_that_of_transformers(tmp_path):
    """Logits from tokens, with the same weights; and a folder as transformers writes it is read."""
    transformers = pytest.importorskip("transformers")
    batch = batch_of(flip_tasks(2))
    config = transformers.LlamaConfig(vocab_size=14, rms_norm_eps=EPS, **THEIRS)
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.load_state_dict(llama_weights())
    model = with_llama(llama_weights())
    expected = [theirs(tokens[None]).logits[0] for tokens in documents(batch, batch.tokens)]
    assert (our_logits(model, batch) - torch.cat(expected)).abs().max() < 1e-5
    pytest.importorskip("safetensors")
    for name, limit in (("one file", "1GB"), ("shards", "60KB")):
        theirs.save_pretrained(tmp_path / name, max_shard_size=limit)
        files = list((tmp_path / name).glob("*.safetensors"))
        assert (len(files) > 1) == (name == "shards")
        check_llama(tmp_path / name, Config(**OURS))
        read = GPT(tiny_config(**OURS))
        load_llama(read, tmp_path / name)
        for part in ("blocks", "norm"):
            for ours, other in zip(getattr(model, part).parameters(),
                                   getattr(read, part).parameters()):
                assert torch.equal(ours, other)


# ------------------------------------------------------------------------------------------------
# A folder


def write_safetensors(path, tensors):
    """Writes the format by hand: length of the header, header, numbers."""
    kinds = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = dict(dtype=kinds[tensor.dtype], shape=list(tensor.shape),
                            data_offsets=[len(data), len(data) + len(raw)])
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_llama(folder, tensors=None, shards=1, dtype=torch.float32, **changes):
    """Writes a Hugging Face folder. changes: of config.json. Returns the folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    tensors = {name: t.to(dtype) for name, t in (tensors or llama_weights()).items()}
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return folder
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        write_safetensors(folder / name, part)
        weight_map.update(dict.fromkeys(part, name))
    index = dict(metadata={}, weight_map=weight_map)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


needs_safetensors = pytest.mark.skipif(find_spec("safetensors") is None,
                                       reason="needs safetensors, which is optional")


@needs_safetensors
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_gives_blocks_and_norm_in_float32_and_no_tokens(tmp_path, shards, dtype):
    folder = write_llama(tmp_path / "llama", shards=shards, dtype=dtype)
    check_llama(folder, Config(**OURS))
    torch.manual_seed(0)
    model, untouched = GPT(tiny_config(**OURS)), GPT(tiny_config(**OURS))
    untouched.load_state_dict(model.state_dict())
    load_llama(model, folder)
    rounded = {name: t.to(dtype).float() for name, t in llama_weights().items()}
    expected = GPT(tiny_config(**OURS))
    copy_weights(expected, rounded.__getitem__, folder)
    for name, weight in model.named_parameters():
        of_llama = name.startswith(("blocks", "norm"))
        assert weight.dtype == torch.float32
        assert torch.equal(weight, (expected if of_llama else untouched).get_parameter(name))
        assert of_llama != torch.equal(weight, untouched.get_parameter(name)), name


def test_every_weight_of_blocks_and_norm_is_read_once():
    model, asked = GPT(tiny_config(**OURS)), []

    def read(name):
        asked.append(name)
        return llama_weights()[name]
    copy_weights(model, read, "folder")
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    assert sorted(asked) == sorted(llama_weights().keys() - tables)
    read_numbers = sum(llama_weights()[name].numel() for name in asked)
    assert read_numbers == sum(p.numel() for part in (model.blocks, model.norm)
                               for p in part.parameters())


@pytest.mark.parametrize("newer", [
    dict(rope_parameters=dict(rope_theta=10000.0, rope_type="default")),     # of transformers 5
    dict(rope_scaling=dict(rope_type="default")),
    dict(head_dim=8),
    dict(head_dim=None),
])
def test_other_ways_to_say_the_same_are_read(tmp_path, newer):
    check_llama(write_llama(tmp_path / "llama", **newer), Config(**OURS))


def test_without_a_number_of_keys_every_head_has_its_own(tmp_path):
    """As in the first Llama's config.json."""
    folder = write_llama(tmp_path / "llama")
    old = {key: value for key, value in CONFIG.items() if key != "num_key_value_heads"}
    (folder / "config.json").write_text(json.dumps(old))
    check_llama(folder, Config(**{**OURS, "n_kv_head": 8}))
    with pytest.raises(UserError, match="set --n_kv_head=8$"):
        check_llama(folder, Config(**OURS))


# ------------------------------------------------------------------------------------------------
# Mistakes

# What config.json says instead, and our knobs: what the error says.
WRONG = {
    "another kind": (dict(model_type="gpt2"), {},
                     "config.json: model_type = 'gpt2', and only 'llama' has blocks like ours"),
    "no kind": (dict(model_type=None), {}, "model_type = None, and only 'llama'"),
    "sizes": ({}, dict(n_layer=22, n_embd=32, n_mlp=8, n_head=2, n_kv_head=1),
              "another network: set --n_layer=3 --n_embd=64 --n_mlp=96 --n_head=8 --n_kv_head=2$"),
    "one size": (dict(num_hidden_layers=4), {}, "another network: set --n_layer=4$"),
    "a size is missing": (dict(intermediate_size=None), {}, "set --n_mlp=None"),
    "queries and keys normed": ({}, dict(qk_norm=True), "another network: set --qk_norm=False$"),
    "its own norm of queries": (dict(use_qk_norm=True), {},
                                "use_qk_norm = True, and our blocks know only False"),
    "size of heads": (dict(head_dim=16), {}, "head_dim = 16, and our blocks know only 8"),
    "bias of attention": (dict(attention_bias=True), {},
                          "attention_bias = True, and our blocks know only False"),
    "bias of the MLP": (dict(mlp_bias=True), {}, "mlp_bias = True"),
    "activation": (dict(hidden_act="gelu"), {},
                   "hidden_act = 'gelu', and our blocks know only 'silu'"),
    "quantized": (dict(quantization_config=dict(bits=4)), {}, "quantization_config = {'bits': 4}"),
    "scaled positions": (dict(rope_scaling=dict(type="linear", factor=2.0)), {},
                         "type 'linear' and rope_theta = 10000.0, .* 'default' and 10000: .*"
                         "--encoding="),
    "scaled positions of Llama 3": (
        dict(rope_parameters=dict(rope_type="llama3", rope_theta=500000.0)), {},
        "type 'llama3' and rope_theta = 500000.0"),
    "other frequencies": (dict(rope_theta=500000.0), dict(encoding="quadtree+rope"),
                          "type 'default' and rope_theta = 500000.0, .*--encoding="),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_network_is_refused(tmp_path, case):
    theirs, ours, message = WRONG[case]
    folder = write_llama(tmp_path / "llama", **theirs)
    with pytest.raises(UserError, match=message) as error:
        check_llama(folder, Config(**{**OURS, **ours}))
    assert str(folder / "config.json") in str(error.value) and "\n" not in str(error.value)


def test_positions_of_another_encoding_are_our_own_business(tmp_path):
    folder = write_llama(tmp_path / "llama", rope_theta=500000.0)
    check_llama(folder, Config(**{**OURS, "encoding": "rope2d"}))


@pytest.mark.parametrize("content", [None, "{", "[]", b"\xff\xfe"])
def test_a_folder_without_a_readable_config_is_refused(tmp_path, content):
    folder = write_llama(tmp_path / "llama")
    (folder / "config.json").unlink()
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "config.json").write_bytes(data)
    with pytest.raises(UserError, match="config.json: missing or not readable; --init_from takes a "
                                        "checkpoint, or a Hugging Face folder"):
        check_llama(folder, Config(**OURS))


# What a tensor is instead, None where it is missing: what the error says.
TENSORS = {
    "missing": (None, "folder: there is no tensor NAME"),
    "transposed": (torch.zeros(64, 16), r"folder: NAME is \[64, 16\], and not \[16, 64\]"),
    "packed": (torch.zeros(16, 32), r"NAME is \[16, 32\]"),
    "no numbers": (torch.full((16, 64), torch.nan), "NAME is not all numbers; download it"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_a_wrong_tensor_is_named(case):
    tensor, message = TENSORS[case]
    name, tensors = "model.layers.1.self_attn.k_proj.weight", llama_weights()
    tensors[name] = tensor
    if tensor is None:
        del tensors[name]
    with pytest.raises(UserError, match=message.replace("NAME", name)):
        copy_weights(GPT(tiny_config(**OURS)), tensors.__getitem__, "folder")


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    folder = write_llama(tmp_path / "llama")
    with pytest.raises(UserError, match="llama: to read it takes .*pip install safetensors"):
        open_files(folder)


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def without_a_shard(folder):
    (folder / "model-00002-of-00003.safetensors").unlink()


def only_torch_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def broken_index(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')


def index_of_nothing(folder):
    (folder / "model.safetensors.index.json").write_text("{}")


# What happens to the folder's files, how many there were: what the error says.
FILES = {
    cut_short: (1, "model.safetensors: damaged, download it again"),
    without_a_shard: (3, "model-00002-of-00003.safetensors is missing: download it"),
    only_torch_weights: (1, "model.safetensors is missing: .*from_pretrained.*save_pretrained"),
    broken_index: (3, "model.safetensors.index.json: damaged"),
    index_of_nothing: (3, "model.safetensors.index.json: damaged"),
}


@needs_safetensors
@pytest.mark.parametrize("harm", FILES, ids=lambda harm: harm.__name__)
def test_wrong_files_are_named(run, tmp_path, harm):
    shards, message = FILES[harm]
    folder = write_llama(tmp_path / "llama", shards=shards)
    harm(folder)
    with pytest.raises(UserError, match=message):
        run(init_from=folder, **OURS)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_ours_names_its_checkpoint(run, tmp_path):
    run(max_steps=0, test="")
    with pytest.raises(UserError, match="run: a run's folder; name the checkpoint: "
                                        "--init_from=.*run/ckpt.pt"):
        run(out="other", init_from=tmp_path / "run")
    assert not (tmp_path / "other").exists()


def test_a_folder_solves_nothing_untrained(run, tmp_path):
    folder = write_llama(tmp_path / "llama")
    with pytest.raises(UserError, match="llama: no such checkpoint; it is a folder.*A Hugging Face "
                                        "folder is a start for training, without --eval_only"):
        run(eval_only=True, init_from=folder, **OURS)


# ------------------------------------------------------------------------------------------------
# A run


@needs_safetensors
def test_a_run_from_a_folder_says_so_for_good(run, tmp_path):
    """In the log, the checkpoint, the score and the report, also after --resume and --init_from."""
    folder = write_llama(tmp_path / "llama")
    run(**OURS, init_from=folder, max_steps=0, test="")
    weights = checkpoint(tmp_path / "run")["model"]
    expected = llama_weights()["model.layers.2.mlp.down_proj.weight"]
    assert torch.equal(weights["blocks.2.mlp.down.weight"], expected)
    line = (f"no longer from scratch: blocks and final norm began as those of {folder}; the leak "
            "guard knows nothing of what it was trained on")
    assert line in (tmp_path / "run" / "log.txt").read_text()

    run(**OURS, out="two", init_from=f"{folder}/", max_steps=1)
    run(**OURS, out="two", resume=True, max_steps=1)
    path = tmp_path / "two" / "ckpt.pt"
    run(**OURS, out="three", init_from=path, max_steps=1)
    run(**OURS, out="four", init_from=path, eval_only=True)
    for out in ("two", "three", "four"):
        log = (tmp_path / out / "log.txt").read_text()
        assert log.count(line) == 1 + (out == "two")
        assert f"\npretrained: {folder}\n" in log
        assert {r["pretrained"] for r in records(tmp_path / out, "test")} == {str(folder)}
        report = (tmp_path / out / "report.html").read_text()
        assert "<th>pretrained</th><td>llama</td>" in report
    for out in ("two", "three"):
        assert checkpoint(tmp_path / out)["model_config"]["pretrained"] == str(folder)


@needs_safetensors
def test_a_folder_goes_with_pairs_kept_out(run, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.json", flip_tasks(9))
    run(**OURS, init_from=write_llama(tmp_path / "llama"), max_steps=0, train=tasks, val="",
        test="", holdout="0/8")
    assert checkpoint(tmp_path / "run")["config"]["holdout"] == "0/8"


def test_a_run_from_scratch_says_nothing_of_a_folder(run, tmp_path):
    assert run(max_steps=0)["pretrained"] is None
    for name in ("log.txt", "report.html"):
        text = (tmp_path / "run" / name).read_text()
        assert "pretrained" not in text and "no longer from scratch" not in text


# ------------------------------------------------------------------------------------------------
# Activation checkpointing


def train_once(model, batch, seed=0):
    """Returns (gradients, bytes that the forward pass keeps for the backward pass)."""
    kept, own = {}, {p.data_ptr() for p in model.parameters()}

    def keep(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor
    model.zero_grad()
    torch.manual_seed(seed)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = our_logits(model.train(), batch)
        loss = F.cross_entropy(logits.float(), batch.tokens.roll(-1))
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_activations_give_the_same_gradients_in_less_memory(dtype):
    """To the bit, with dropout's masks: those of the first pass are drawn again."""
    model = filled_model(tiny_config(n_layer=4, dropout=0.3))
    batch = batch_of(flip_tasks(4))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        kept, most = train_once(model, batch)
        others, _ = train_once(model, batch, seed=1)
        model.recompute = True
        again, less = train_once(model, batch)
    assert all(map(torch.equal, kept, again))
    assert not all(map(torch.equal, kept, others))         # dropout draws masks at all
    assert less < most / 3


def test_recompute_is_a_knob_of_the_machine(run, tmp_path, monkeypatch):
    """It trains the same weights, may change at a --resume, and is not there without gradients."""
    recomputed, calls = torch.utils.checkpoint.checkpoint, []

    def counted(*args, **options):
        calls.append(torch.is_grad_enabled())
        return recomputed(*args, **options)
    monkeypatch.setattr("model.checkpoint", counted)
    for out in "ab":                           # with validation and predictions
        run(out=out, dropout=0.3, recompute=out == "b")
        assert bool(calls) == (out == "b")
    assert all(calls)
    found = [checkpoint(tmp_path / out) for out in "ab"]
    assert equal(found[0]["training"], found[1]["training"])
    assert found[0]["model_config"] == found[1]["model_config"]
    run(out="a", dropout=0.3, recompute=True, resume=True)
