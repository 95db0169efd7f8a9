"""The network: a Llama-style transformer over ARC documents. Read it top to bottom.

B documents decoded at once, D documents, T tokens of all documents laid end to end, C channels, V vocabulary (14),
nh heads, n_kv heads of keys and values, hs head size. H, W are always the rows and columns of a grid.
"""
import inspect
import pickle
import sys
import types
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from config import UserError
from data.arc import END, KEEP, ROW, START, STEP, VOCAB, advance
from replay import repeat

# The folder encodings/ goes by the name `positions` in imports: Python has a package `encodings` of its own (its codecs),
# which is loaded before any program starts. For the same reason it holds no __init__.py: with PYTHONPATH=. Python would
# take it for its codecs, and not start.
sys.modules["positions"] = types.ModuleType("positions")
sys.modules["positions"].__path__ = [str(Path(__file__).with_name("encodings"))]
from positions.index import build                              # noqa: E402

try:                                                           # flash attention over documents of any length
    from torch.nn.attention.varlen import varlen_attn
    VARLEN_KNOBS = dict(inspect.signature(varlen_attn).parameters)       # window_size: torch >= 2.11; enable_gqa: torch >= 2.12
except ImportError:
    VARLEN_KNOBS = {}


@dataclass
class Shape:
    """All that decides the network's parameters; stored in a checkpoint."""
    encoding: str
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    n_mlp: int
    dropout: float
    frame: int                                                 # rows and columns are 0 .. frame - 1
    max_len: int                                               # tokens of a document
    n_slots: int                                               # pairs of a document
    n_tasks: int = 0                                           # rows of the task embedding; 0: none
    n_views: int = 0                                           # rows of the view embedding; 0: none


class Layout(NamedTuple):
    """Documents laid end to end. What is known of the batch and the same in every layer."""
    docs: object                                               # (D + 1,) where each begins; a list where attention loops
    rotary: object                                             # None, or (cos, cos) and (-sin, sin), each (T, nh or 1, hs)
    max_len: int                                               # no document is longer
    causal: bool
    cache: object = None                                       # Cache, and each token's place in it:
    doc: object = None                                         # (T,) its document
    index: object = None                                       # (T,) its index there
    bias: object = None                                        # a decode step: (B, 1, 1, span), 0 for what it may see, else -inf


class Cache:
    """Keys and values of B documents. Each document appends at its own index."""
    GROW = 128                                                 # tokens more, when a document reaches the end of the room there is

    def __init__(self, B, span):
        self.B, self.layers = B, {}
        self.reach(span)

    def reach(self, span):
        """Make room for documents of `span` tokens. A multiple of 8: else attention copies its mask to align it."""
        self.span = -(-span // 8) * 8
        if self.layers and self.span > self.layers[0].shape[2]:
            for layer, kv in self.layers.items():              # one after the other: two of all would not fit
                self.layers[layer] = F.pad(kv, (0, 0, 0, 0, 0, self.span + self.GROW - kv.shape[2]))

    def write(self, layer, doc, index, k, v):
        if layer not in self.layers:
            self.layers[layer] = k.new_zeros(2, self.B, self.span + self.GROW, *k.shape[1:])
        self.layers[layer][:, doc, index] = torch.stack([k, v])

    def read(self, layer):
        return self.layers[layer][:, :, :self.span].transpose(2, 3)        # 2 x (B, n_kv, span, hs)

    def keep(self, rows):
        for layer, kv in self.layers.items():
            self.layers[layer] = kv[:, rows]
        self.B = len(self.layers[0][0])


def rotary_of(angles):
    """Angles (T, nh or 1, hs / 2) as apply_rotary takes them."""
    return angles.cos().repeat(1, 1, 2), torch.cat([-angles.sin(), angles.sin()], -1)


def apply_rotary(x, rotary):
    """Turn the pairs (i, i + hs / 2) of each head, (a, b) -> (a cos - b sin, b cos + a sin). x (T, nh, hs)."""
    cos, sin = rotary
    return (x * cos + x.unflatten(-1, (2, -1)).flip(-2).flatten(-2) * sin).to(x.dtype)


def has_varlen(device, dtype):
    return "window_size" in VARLEN_KNOBS and device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)


def attend(q, k, v, layout, layer):
    """Attention of each token over its own document. q (T, nh, hs), k and v (T, n_kv, hs) -> (T, nh, hs)."""
    if layout.cache is not None:
        layout.cache.write(layer, layout.doc, layout.index, k, v)
        if layout.bias is not None:                             # a decode step: one token a document, against the cache
            k, v = layout.cache.read(layer)                     # heads that share a key are its queries: (B, n_kv, group, hs)
            return F.scaled_dot_product_attention(q.unflatten(1, (k.shape[1], -1)), k, v, layout.bias).flatten(1, 2)
    if has_varlen(q.device, q.dtype):
        gqa = q.shape[1] != k.shape[1]
        if gqa and "enable_gqa" not in VARLEN_KNOBS:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        return varlen_attn(q, k, v, layout.docs, layout.docs, layout.max_len, layout.max_len,
                           window_size=(-1, 0) if layout.causal else (-1, -1), **({"enable_gqa": gqa} if "enable_gqa" in VARLEN_KNOBS else {}))
    lengths = [b - a for a, b in zip(layout.docs, layout.docs[1:])]      # no mask, no padding: a loop over documents
    parts = zip(*(x.transpose(0, 1)[None].split(lengths, dim=2) for x in (q, k, v)))           # (1, heads, length, hs) each
    out = [F.scaled_dot_product_attention(*qkv, is_causal=layout.causal, enable_gqa=True) for qkv in parts]
    return torch.cat(out, dim=2)[0].transpose(0, 1)            # (T, nh, hs)


class Norm(nn.RMSNorm):
    """In the dtype of what it reads: its gain follows, as torch norms two dtypes in several passes."""

    def __init__(self, C):
        super().__init__(C, eps=torch.finfo(torch.float32).eps)         # else that of x, by torch's manual: 0.008 for bfloat16

    def forward(self, x):
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    def __init__(self, shape, layer):
        super().__init__()
        self.layer, self.hs = layer, shape.n_embd // shape.n_head
        self.wq = nn.Linear(shape.n_embd, shape.n_head * self.hs, bias=False)
        self.wk = nn.Linear(shape.n_embd, shape.n_kv_head * self.hs, bias=False)
        self.wv = nn.Linear(shape.n_embd, shape.n_kv_head * self.hs, bias=False)
        self.wo = nn.Linear(shape.n_head * self.hs, shape.n_embd, bias=False)
        self.wo.into_residual = True

    def forward(self, x, layout):
        q, k, v = (w(x).unflatten(-1, (-1, self.hs)) for w in (self.wq, self.wk, self.wv))     # (T, heads, hs)
        if layout.rotary is not None:
            q, k = apply_rotary(q, layout.rotary), apply_rotary(k, layout.rotary)
        return self.wo(attend(q, k, v, layout, self.layer).flatten(-2))


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, shape):
        super().__init__()
        self.gate = nn.Linear(shape.n_embd, shape.n_mlp, bias=False)
        self.up = nn.Linear(shape.n_embd, shape.n_mlp, bias=False)
        self.down = nn.Linear(shape.n_mlp, shape.n_embd, bias=False)
        self.down.into_residual = True

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, shape, layer):
        super().__init__()
        self.norm1, self.attention = Norm(shape.n_embd), Attention(shape, layer)
        self.norm2, self.mlp = Norm(shape.n_embd), MLP(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x, layout):
        x = x + self.dropout(self.attention(self.norm1(x), layout))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.token = nn.Embedding(VOCAB, shape.n_embd)
        self.plane = nn.Embedding(2 * shape.n_slots, shape.n_embd)     # which pair, input or output: the same for all encodings
        self.encoding = build(shape)
        self.task = nn.Embedding(shape.n_tasks, shape.n_embd) if shape.n_tasks else None
        self.view = nn.Embedding(shape.n_views, shape.n_embd) if shape.n_views else None
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.n_layer))
        self.norm = Norm(shape.n_embd)
        self.head = nn.Linear(shape.n_embd, VOCAB, bias=False)
        self.apply(self.init)
        nn.init.normal_(self.head.weight, std=0.02)            # small logits: the first loss is close to ln 14 = 2.64

    def init(self, module):
        """Matrices keep the size of what they read; those that write into the residual stream are smaller, so that
        n_layer blocks of two writes add up to about one (GPT-2). Embeddings start at 0.5: two or three of them make about one.
        What an encoding adds starts at 1, whatever its features are."""
        if isinstance(module, nn.Linear):
            std = module.in_features ** -0.5 / getattr(module, "input_rms", 1)
            if getattr(module, "into_residual", False):
                std /= (2 * self.shape.n_layer) ** 0.5
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=getattr(module, "std", 0.5))

    def forward(self, tokens, coords, docs, labels=None, cache=None, causal=True):
        """-> logits (T, V), of the token that comes next."""
        return self.head(self.hidden(tokens, coords, docs, labels, cache, causal))

    def hidden(self, tokens, coords, docs, labels=None, cache=None, causal=True, more=0):
        """-> (T, C), normed. tokens (T,), coords (T, 4), docs (D + 1,) the offset at which each document begins and the last
        one's end, labels (T, 2): task row and view, used where the network has such embeddings. With a cache: a first call
        with the documents' beginnings, then one token for each document a call. `more` (T, C) is added to the embeddings."""
        doc, bias = None, None
        if cache is not None:
            doc = torch.repeat_interleave(torch.arange(cache.B, device=tokens.device), docs.diff(), output_size=len(tokens))
        x = self.token(tokens) + self.plane(coords[:, 1]) + self.encoding(coords) + more       # (T, C)
        if self.task is not None:
            x = x + self.task(labels[:, 0])
        if self.view is not None:
            x = x + self.view(labels[:, 1])
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        angles = self.encoding.angles(coords)
        rotary = None if angles is None else rotary_of(angles)
        if cache is not None and len(tokens) == cache.B:
            hidden = torch.arange(cache.span, device=x.device) > coords[:, :1]
            bias = torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, -torch.inf)[:, None, None]
        elif not has_varlen(x.device, dtype):
            docs = docs.tolist()
        layout = Layout(docs, rotary, self.shape.max_len, causal, cache, doc, coords[:, 0], bias)
        x = x.to(dtype)                                         # what blocks add up in, too: half the bytes of every norm
        for block in self.blocks:
            x = block(x, layout)
        return self.norm(x)

    def counts(self):
        """Parameters: (of the network, of embedding tables)."""
        tables = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Embedding))
        return sum(p.numel() for p in self.parameters()) - tables, tables


class Answer(NamedTuple):
    tokens: object                                             # numpy (n,), without the final `end`
    logps: object                                              # numpy (n + 1,): log-probability of each, and of `end`


@torch.no_grad()
def generate(model, tokens, coords, docs, labels, max_new, temperature=0.0):
    """Continue each document to its `end`: a list of D Answers, None where max_new tokens (a number, or one for each document) did not suffice or the
    grid left the frame. Greedy at temperature 0, over all 14 tokens: nothing forces an answer to be a grid."""
    device, B, last = tokens.device, len(docs) - 1, docs[1:].long() - 1
    keep, move = torch.from_numpy(KEEP).to(device, torch.long), torch.from_numpy(STEP).to(device, torch.long)
    room, most = torch.as_tensor(max_new, device=device).expand(B), int(torch.as_tensor(max_new).max())
    answers = torch.full((B, most), END, device=device)
    logps = torch.zeros(B, most, device=device)
    finished = torch.zeros(B, dtype=torch.bool, device=device)
    rows, alive = torch.arange(B, device=device), torch.ones(B, dtype=torch.bool, device=device)
    count = torch.zeros(1, dtype=torch.long, device=device)    # tokens answered
    longest = int(docs.diff().max())
    cache = Cache(B, longest)
    logits = model(tokens, coords, docs, labels, cache)[last]
    token, place, labels = tokens[last], coords[last], labels[last]                            # the last one read, and where it stands

    def read(logits):
        """Take each document's next token, in place, so that a recorded step goes on where the last one ended."""
        logp = logits.float().log_softmax(-1)                                                  # (B, V)
        # a finished document stays where it is
        place.copy_(torch.where(alive[:, None], advance(place, token, keep, move), place))
        token.copy_(logp.argmax(-1) if temperature == 0 else
                    torch.multinomial((logp / temperature).softmax(-1), 1)[:, 0])
        answers[rows, count] = torch.where(alive, token, END)
        logps[rows, count] = torch.where(alive, logp.gather(1, token[:, None])[:, 0], 0)
        finished[rows] |= alive & (token == END)
        inside = (advance(place, token, keep, move)[:, 2:] < model.shape.frame).all(-1) & (count + 1 < room[rows])
        alive.logical_and_(((token < START) | (token == ROW)) & inside)
        count.add_(1)

    read(logits)
    done, chunk = 1, 8 if device.type == "cpu" else 32         # every so many steps the host waits, and looks who is left
    while done < most and (left := int(alive.sum())):
        if left <= 0.7 * len(rows):
            rows, token, place, labels = (x[alive] for x in (rows, token, place, labels))
            cache.keep(alive)
            alive = alive[alive]
        steps = min(chunk, most - done)
        cache.reach(min(longest + done + steps, model.shape.max_len))
        starts = torch.arange(len(rows) + 1, device=device, dtype=docs.dtype)
        repeat(lambda: read(model(token, place, starts, labels, cache)), steps, device)
        done += steps
    answers, logps, finished = answers.cpu().numpy(), logps.cpu().numpy(), finished.tolist()
    ends = (answers == END).argmax(1)
    return [Answer(a[:n], p[:n + 1]) if ok else None for a, p, n, ok in zip(answers, logps, ends, finished)]


# --------------------------------------------------------------------------------------------------------------------
# Checkpoints: one dict of tensors, numbers, strings and plain containers

KIND = "nanoarc checkpoint 1"


UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError)   # what torch.load raises on a file cut short


def save_whole(path, what):
    """Write to a temporary file, then rename: a reader finds the old file or the new one, never half a file."""
    temporary = Path(f"{path}.tmp")
    torch.save(what, temporary)
    temporary.replace(path)


def save_checkpoint(path, model, **rest):
    save_whole(path, {"kind": KIND, "network": type(model).__name__, "shape": asdict(model.shape), "model": model.state_dict(), **rest})


def load_checkpoint(path, network="GPT", cure="train first, or name one with --init_from="):
    """The dict of a checkpoint of a network of that class, on the CPU. Nothing in the file is executed (weights_only)."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; {cure}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable checkpoint, perhaps cut short ({type(error).__name__})") from None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise UserError(f"{path}: a file of another program, or of another version: its kind is not {KIND!r}")
    if found.get("network", "GPT") != network:
        raise UserError(f"{path}: holds a {found.get('network', 'GPT')}, and a {network} is needed here (train.py writes GPT, refine.py Refiner)")
    return found


def check_shape(found, shape, path):
    """UserError naming every knob in which a checkpoint's network differs from the one that was asked for."""
    knobs = {"n_slots": "demos + 1", "n_tasks": "tasks trained on", "n_views": "view_embed * 8"}
    differ = [f"{knobs.get(f.name, f.name)} is {found['shape'].get(f.name)!r} there and {getattr(shape, f.name)!r} here"
              for f in fields(Shape) if found["shape"].get(f.name) != getattr(shape, f.name) and f.name != "dropout"]
    if differ:
        raise UserError(f"{path}: another network: {'; '.join(differ)}")


def rebuild(found, device="cpu"):
    """GPT with the averaged weights of a checkpoint's dict, in eval mode."""
    model = GPT(Shape(**found["shape"]))
    model.load_state_dict(found["model"])
    return model.to(device).eval()


def from_checkpoint(path, device="cpu"):
    """-> (rebuild of it; the checkpoint's dict)."""
    found = load_checkpoint(path)
    return rebuild(found, device), found
