"""The network: a Llama-style transformer over ARC documents. Read it top to bottom.

D documents, T tokens of all of them end to end, B documents decoded at once, C channels, V = 14
tokens, nh heads, n_kv heads of keys and values, hs head size; H, W rows and columns of a grid.
"""
import inspect
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from arc.tokens import END, KEEP, ROW, START, STEP, VOCAB, advance
from positions.base import Encoding
from positions.index import build              # positions: the folder encodings/, see positions.py

try:                                           # flash attention over documents of any length
    from torch.nn.attention.varlen import varlen_attn
    VARLEN_OPTIONS = set(inspect.signature(varlen_attn).parameters)
except ImportError:
    VARLEN_OPTIONS = set()


@dataclass
class ModelConfig:
    """All that decides the network's parameters; stored in a checkpoint."""
    encoding: str                              # a name in encodings/index.py
    n_layer: int                               # blocks
    n_head: int                                # heads of queries
    n_kv_head: int                             # n_head / n_kv_head heads share a key and a value
    n_embd: int                                # C
    n_mlp: int                                 # hidden width of SwiGLU
    dropout: float                             # on the residual branches
    canvas: int                                # rows and columns are 0 .. canvas - 1
    max_len: int                               # tokens of a document
    n_pairs: int                               # pairs of a document
    n_tasks: int = 0                           # rows of the task embedding; 0: none
    n_views: int = 0                           # rows of the view embedding; 0: none
    qk_norm: bool = False                      # queries and keys of one length, see `Attention`
    pretrained: str = ""                       # whose blocks it started from; empty: from scratch


class AttentionContext(NamedTuple):
    """What attention needs to know of a batch. It is the same in every layer."""
    cu_seqlens: object                         # (D + 1,): where each document begins, and the end
    lengths: object                            # list of D, where attention loops over documents
    rotary: object                             # None, or what `apply_rotary` takes
    max_len: int                               # no document is longer
    cache: object = None                       # Cache of keys and values; None in training
    document: object = None                    # (T,): the document of each token, with a cache
    index: object = None                       # (T,): its index in the document
    mask: object = None                        # in a decode step alone: (B, 1, 1, capacity), 0 or
                                               # -inf


class Cache:
    """Keys and values of B documents. Each document appends at its own index."""
    MARGIN = 128                               # spare tokens whenever it grows

    def __init__(self, B, capacity):
        self.B = B
        self.layers = []                       # (2, B, allocated, n_kv, hs) of each layer
        self.layer = 0                         # the next one, from 0 in each forward pass
        self.reserve(capacity)

    def reserve(self, capacity):
        """Grows, where it must, to documents of that many tokens."""
        # rounded up to a multiple of 8: otherwise attention copies its mask to align it
        self.capacity = -(-capacity // 8) * 8
        if self.layers and self.capacity > self.layers[0].shape[2]:
            for layer, kv in enumerate(self.layers):      # one by one: two copies would not fit
                new = self.capacity + self.MARGIN - kv.shape[2]
                self.layers[layer] = F.pad(kv, (0, 0, 0, 0, 0, new))

    def append(self, document, index, k, v):
        """Keeps keys and values (T, n_kv, hs) of the next layer, in the order of the calls.

        Should a block of yours run twice in a forward pass, it is two layers here. Returns keys and
        values of all tokens of that layer, (2, B, n_kv, capacity, hs).
        """
        if self.layer == len(self.layers):
            allocated = self.capacity + self.MARGIN
            self.layers.append(k.new_zeros(2, self.B, allocated, *k.shape[1:]))
        kv = self.layers[self.layer]
        kv[:, document, index] = torch.stack([k, v])
        self.layer += 1
        return kv[:, :, :self.capacity].transpose(2, 3)

    def select(self, active):
        """Drops the documents that are not active. active: (B,) bool."""
        for layer, kv in enumerate(self.layers):
            self.layers[layer] = kv[:, active]
        self.B = len(self.layers[0][0])


def rotary_tables(angles):
    """Returns angles (T, nh or 1, hs / 2) as the two tables of `apply_rotary`."""
    return angles.cos().repeat(1, 1, 2), torch.cat([-angles.sin(), angles.sin()], -1)


def apply_rotary(x, rotary):
    """Turns the pairs (i, i + hs / 2) of each head (RoFormer, arXiv 2104.09864). x: (T, nh, hs)."""
    cos, sin = rotary
    swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return (x * cos + swapped * sin).to(x.dtype)


def has_flash_attention(device, dtype):
    """Returns whether documents of any length can be attended in one kernel (torch >= 2.11)."""
    return (device.type == "cuda" and dtype == torch.bfloat16
            and "window_size" in VARLEN_OPTIONS)


def attend(q, k, v, context):
    """Attention of each token over its own document, in one of three ways.

    A decode step reads the cache, under a mask. With flash attention one kernel serves documents of
    any length. Elsewhere there is a loop over documents. q: (T, nh, hs), k and v: (T, n_kv, hs).
    Returns (T, nh, hs).
    """
    if context.cache is not None:
        cached = context.cache.append(context.document, context.index, k, v)
    if context.mask is not None:
        # a decode step: one token a document, against the cache; query heads that share a key are
        # rows of one query
        k, v = cached                                                   # (B, n_kv, capacity, hs)
        q = q.unflatten(1, (k.shape[1], -1))                            # (B, n_kv, group, hs)
        return F.scaled_dot_product_attention(q, k, v, context.mask).flatten(1, 2)
    if has_flash_attention(q.device, q.dtype):
        options = dict(window_size=(-1, 0))                             # no token sees later ones
        if "enable_gqa" in VARLEN_OPTIONS:                              # torch >= 2.12
            options["enable_gqa"] = q.shape[1] != k.shape[1]
        elif q.shape[1] != k.shape[1]:
            group = q.shape[1] // k.shape[1]
            k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        bounds = context.cu_seqlens
        return varlen_attn(q, k, v, bounds, bounds, context.max_len, context.max_len, **options)
    # one call a document: causal, without padding
    heads_first = [x.transpose(0, 1)[None].split(context.lengths, dim=2) for x in (q, k, v)]
    out = []
    for one_q, one_k, one_v in zip(*heads_first):                       # (1, heads, length, hs)
        out.append(F.scaled_dot_product_attention(one_q, one_k, one_v, is_causal=True,
                                                  enable_gqa=True))
    return torch.cat(out, dim=2)[0].transpose(0, 1)                     # (T, nh, hs)


# of all norms; torch's own default follows the input's dtype: 0.008 for bfloat16
EPSILON = torch.finfo(torch.float32).eps


class RMSNorm(nn.RMSNorm):
    """RMSNorm in the input's dtype. A norm of two dtypes is slower: it runs as several kernels."""

    def __init__(self, C):
        super().__init__(C, eps=EPSILON)

    def forward(self, x):
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def unit_rms(x):
    """Returns x (T, heads, hs) with a root mean square of one in each head."""
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        C, self.hs = config.n_embd, config.n_embd // config.n_head
        self.qk_norm = config.qk_norm
        self.wq = nn.Linear(C, config.n_head * self.hs, bias=False)
        self.wk = nn.Linear(C, config.n_kv_head * self.hs, bias=False)
        self.wv = nn.Linear(C, config.n_kv_head * self.hs, bias=False)
        self.wo = nn.Linear(config.n_head * self.hs, C, bias=False)
        self.wo.into_residual = True           # `GPT.init` starts it smaller

    def forward(self, x, context):
        # (T, heads, hs) each
        q, k, v = (w(x).unflatten(-1, (-1, self.hs)) for w in (self.wq, self.wk, self.wv))
        if self.qk_norm:
            # their directions alone decide (arXiv 2010.04245, with a fixed scale): no score exceeds
            # 1.5 sqrt(hs), enough to look at one token alone
            q, k = 1.5 * unit_rms(q), unit_rms(k)
        if context.rotary is not None:
            q = apply_rotary(q, context.rotary)
            k = apply_rotary(k, context.rotary)
        out = attend(q, k, v, context)                                  # (T, nh, hs)
        return self.wo(out.flatten(-2))                                 # (T, C)


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config):
        super().__init__()
        self.gate = nn.Linear(config.n_embd, config.n_mlp, bias=False)
        self.up = nn.Linear(config.n_embd, config.n_mlp, bias=False)
        self.down = nn.Linear(config.n_mlp, config.n_embd, bias=False)
        self.down.into_residual = True

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))             # (T, C)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm1 = RMSNorm(config.n_embd)
        self.attention = Attention(config)
        self.norm2 = RMSNorm(config.n_embd)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, context):
        x = x + self.dropout(self.attention(self.norm1(x), context))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT(nn.Module):
    recompute = False                          # activation checkpointing, see `run_blocks`

    def __init__(self, config):
        super().__init__()
        self.config, C = config, config.n_embd
        # what stands here: one vector for each of the 14 tokens
        self.token = nn.Embedding(VOCAB, C)
        # which pair, input or output: the same for every encoding, so that positions alone differ
        self.segment = nn.Embedding(2 * config.n_pairs, C)
        # where it stands: row, column and index, as the encoding has them
        # on the CPU even where the network is built on `meta`, for its sizes alone: the `setup` of
        # an encoding may need actual values
        with torch.device("cpu"):
            self.encoding = build(config)
        # which rule, and which symmetry: vectors learned for each task and each view
        self.task = nn.Embedding(config.n_tasks, C) if config.n_tasks else None
        self.view = nn.Embedding(config.n_views, C) if config.n_views else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(C)
        self.head = nn.Linear(C, VOCAB, bias=False)
        self.apply(self.init)
        nn.init.normal_(self.head.weight, std=0.02)    # small logits: the first loss is near ln 14

    def init(self, module):
        """Each matrix keeps the root mean square of its input.

        Those that write into the residual stream are smaller, so that 2 * n_layer writes add up to
        about one (GPT-2). Embeddings start at 0.5, as two to four of them are added. What an
        encoding adds starts with a root mean square of 1, whatever it is made of.
        """
        if isinstance(module, nn.Linear):
            std = module.in_features ** -0.5
            if getattr(module, "into_residual", False):
                std /= (2 * self.config.n_layer) ** 0.5
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=getattr(module, "initial_std", 0.5))
        elif isinstance(module, Encoding):     # its own layers came before: `apply` goes upwards
            module.scale_to_one()

    def forward(self, tokens, coords, cu_seqlens, task_view=None, cache=None):
        """Returns the logits (T, V) of the token that comes next.

        tokens: (T,). coords: (T, 4), see arc/tokens.py. cu_seqlens: (D + 1,) int32, the index at
        which each document begins, and T. task_view: (T, 2), row of the task embedding and
        symmetry, read where the network has such embeddings. With a cache a first call takes the
        documents' beginnings; each later one is a decode step, one token a document, with
        cu_seqlens None.
        """
        x = self.embed(tokens, coords, task_view)
        context = self.attention_context(x, coords, cu_seqlens, cache)
        return self.head(self.run_blocks(x, context))

    def embed(self, tokens, coords, task_view):
        x = self.token(tokens) + self.segment(coords[:, 1]) + self.encoding(coords)     # (T, C)
        if self.task is not None:
            x = x + self.task(task_view[:, 0])                          # the rule of the task
        if self.view is not None:
            x = x + self.view(task_view[:, 1])                          # the symmetry
        # the residual stream is in autocast's dtype, as fewer bytes are faster
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return x

    def attention_context(self, x, coords, cu_seqlens, cache):
        """Returns the AttentionContext of embedded tokens x (T, C)."""
        lengths, document, mask = None, None, None
        if cache is not None:
            cache.layer = 0                    # a forward pass begins
            document = torch.arange(cache.B, device=x.device)
            if cu_seqlens is not None:         # prompts; a decode step has one token a document
                document = document.repeat_interleave(cu_seqlens.diff(), output_size=len(x))
        if cu_seqlens is None:
            # a decode step: a token sees no further than itself
            unseen = torch.arange(cache.capacity, device=x.device) > coords[:, :1]
            mask = torch.zeros_like(unseen, dtype=x.dtype).masked_fill(unseen, -torch.inf)
            mask = mask[:, None, None]         # (B, 1, 1, capacity)
        elif not has_flash_attention(x.device, x.dtype):
            lengths = cu_seqlens.diff().tolist()
        # angles are the same in every layer, so they are computed once
        angles = self.encoding.angles(coords)
        rotary = None if angles is None else rotary_tables(angles)
        return AttentionContext(cu_seqlens, lengths, rotary, self.config.max_len, cache,
                                document, coords[:, 0], mask)

    def run_blocks(self, x, context):
        """Returns the normed output (T, C) of the last block for embedded tokens x (T, C)."""
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():     # keep its input alone
                x = checkpoint(block, x, context, use_reentrant=False)
            else:
                x = block(x, context)
        return self.norm(x)

    def parameter_groups(self):
        """Returns the parameters that train, by kind: matrices of the blocks, head, norms, tables.

        Tables are the embeddings and the encoding's projection.
        """
        kind_of = {id(p): "head" for p in self.head.parameters()}
        kind_of.update({id(p): "matrices" for p in self.blocks.parameters()})
        groups = dict(matrices=[], head=[], norms=[], tables=[])
        for p in filter(lambda p: p.requires_grad, self.parameters()):
            # norms have one dimension (a scalar none), and no weight decay
            kind = "norms" if p.ndim < 2 else kind_of.get(id(p), "tables")
            groups[kind].append(p)
        return groups

    def count_parameters(self):
        """Returns (parameters of the network, parameters in embedding tables)."""
        tables = [m.weight.numel() for m in self.modules() if isinstance(m, nn.Embedding)]
        return sum(p.numel() for p in self.parameters()) - sum(tables), sum(tables)


class Answer(NamedTuple):
    tokens: np.ndarray                         # (n,), without the final `end`
    logprobs: np.ndarray                       # (n + 1,): of each token, and of `end`


def run_steps(step, times, device):
    """Calls step() that many times. engine/cuda_graphs.py has a faster one for CUDA."""
    for _ in range(times):
        step()


@torch.no_grad()
def generate(model, prompts, max_new_tokens, run_steps=run_steps, sample=False):
    """Continues each document to its `end`, greedily or by `sample`. Returns a list of D Answers.

    An answer is None where max_new_tokens (a number, or one a document) did not suffice, the grid
    left the canvas, or a token came that no grid holds. Nothing forces an answer to be a grid.
    prompts: has tokens, coords, cu_seqlens, task_view, as `GPT.forward` takes them.
    """
    cu_seqlens, device = prompts.cu_seqlens, prompts.tokens.device
    D, last = len(cu_seqlens) - 1, cu_seqlens[1:].long() - 1
    keep_table = torch.from_numpy(KEEP).to(device, torch.long)
    step_table = torch.from_numpy(STEP).to(device, torch.long)
    limits = torch.as_tensor(max_new_tokens, device=device).expand(D)
    longest_answer, longest_prompt = int(limits.max()), int(cu_seqlens.diff().max())

    # a row a document, a column a new token; written in place: the device waits for no host
    answers = torch.full((D, longest_answer), END, device=device)
    logprobs = torch.zeros(D, longest_answer, device=device)
    ended = torch.zeros(D, dtype=torch.bool, device=device)             # came to `end`
    column = torch.zeros(1, dtype=torch.long, device=device)            # the next one to fill
    # the state of the B documents still decoded; the loop below drops those that ended or failed
    rows = torch.arange(D, device=device)      # (B,): their rows in `answers` and `logprobs`
    active = torch.ones(D, dtype=torch.bool, device=device)             # not ended, not failed
    cache = Cache(D, longest_prompt)
    logits = model(prompts.tokens, prompts.coords, cu_seqlens, prompts.task_view, cache)[last]
    # (B,), (B, 4), (B, 2): the token that each document read last, and where it stands
    token, cursor, task_view = prompts.tokens[last], prompts.coords[last], prompts.task_view[last]

    def pick_next(logits):
        """Takes each document's next token; in place, so that a replayed CUDA graph goes on."""
        # the cursor moves past `token`; then `token` becomes the next one, which stands there
        moved = advance(cursor, token, keep_table, step_table)
        cursor.copy_(torch.where(active[:, None], moved, cursor))
        # into this column: the likeliest token, or one drawn by adding Gumbel noise
        logp = logits.float().log_softmax(-1)                           # (B, V)
        choice = logp - torch.empty_like(logp).exponential_().log() if sample else logp
        token.copy_(choice.argmax(-1))
        answers[rows, column] = torch.where(active, token, END)
        logprobs[rows, column] = torch.where(active, logp.gather(1, token[:, None])[:, 0], 0)
        ended[rows] |= active & (token == END)
        # on with those that may become a grid on the canvas, within their limits
        is_grid = (token < START) | (token == ROW)
        next_position = advance(cursor, token, keep_table, step_table)[:, 2:]
        inside = (next_position < model.config.canvas).all(-1)
        active.logical_and_(is_grid & inside & (column + 1 < limits[rows]))
        column.add_(1)

    pick_next(logits)
    done = 1                                   # the value of `column`, known to the host
    chunk = 8 if device.type == "cpu" else 32  # steps between two looks at who is left
    while done < longest_answer and (left := int(active.sum())):
        if left <= 0.7 * len(rows):            # go on without those that are not active
            rows, token, cursor, task_view = (x[active] for x in (rows, token, cursor, task_view))
            cache.select(active)
            active = active[active]            # all True, one for each that is left
        steps = min(chunk, longest_answer - done)
        cache.reserve(min(longest_prompt + done + steps, model.config.max_len))
        run_steps(lambda: pick_next(model(token, cursor, None, task_view, cache)), steps, device)
        done += steps

    return to_answers(answers, logprobs, ended)


def to_answers(tokens, logprobs, ended):
    """Returns a list of Answers from tokens (D, n) that end in END; None where they did not."""
    tokens, logprobs = tokens.cpu().numpy(), logprobs.cpu().numpy()
    ends = (tokens == END).argmax(1)           # the first END of each
    rows = zip(tokens, logprobs, ends, ended.tolist())
    return [Answer(t[:end], p[:end + 1]) if ok else None for t, p, end, ok in rows]
