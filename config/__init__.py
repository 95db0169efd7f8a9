"""Every knob with its default, range and advice; and the loader of config files.

A config file holds plain assignments, and `--key=value` on the command line comes after it:

    python train.py config/quadtree.py --learning_rate=1e-3
"""
import ast
import dataclasses
import difflib
import os
import re
import runpy
import types
from dataclasses import dataclass
from pathlib import Path

# torch reads this when it is imported. Decoding reserves 26 GiB with it, and 45 GiB without.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

MANY = 10**9


class UserError(ValueError):
    """Something its reader can repair: shown as one line, which names the value and the cure."""


def split_names(text):
    """Returns the parts of a knob that lists several, "a, b"."""
    return [name.strip() for name in text.split(",") if name.strip()]


def knob(default, advice, low=None, high=MANY):
    """A field of Config. Its value must lie between low and high, where low is given."""
    return dataclasses.field(default=default, metadata=dict(advice=advice, low=low, high=high))


@dataclass
class Config:
    # -- the run
    out_dir: str = knob("", "what the run leaves; empty: out/<name of the config file>")
    overwrite: bool = knob(False, "start anew in an out_dir that holds a run")
    resume: bool = knob(False, "go on from out_dir/ckpt.pt, exactly")
    init_from: str = knob("", "a checkpoint whose weights to start from; all else starts anew. A "
                          "Hugging Face folder of a Llama: its blocks and final norm")
    eval_only: bool = knob(False, "solve `test` (or `tasks`) with out_dir/ckpt.pt or init_from")
    seed: int = knob(1, "of training data, weights, dropout and sampled answers", 0, 2**31 - 1)

    # -- data. A source is oned, a JSON file, a directory, arc1:training, arc1:evaluation, arc2:...
    #    Join with +. x#100 takes 100 tasks of x, x@16 the first 16 demonstrations of each.
    train: str = knob("oned", "source to train on")
    val: str = knob("oned", "source for curves, best.pt and every choice; empty: none")
    test: str = knob("oned", "source that is scored once, at the end; empty: none")
    tasks: str = knob("", "a task file of yours to solve: takes the place of `test`")
    demos: int = knob(3, "at most so many demonstrations a document; 0: none, with task_embed", 0,
                      1000)
    task_embed: bool = knob(False, "learn a vector for each task: its rule is in the weights")
    view_embed: bool = knob(False, "learn a vector for each of the 8 symmetries")
    symmetries: bool = knob(False, "train and vote under the 8 symmetries of the square")
    colors: bool = knob(True, "train and vote under permutations of the colors 1 to 9")
    max_len: int = knob(1024, "tokens of a document; demonstrations that do not fit are dropped", 8,
                        2**15)                 # coordinates are int16
    max_answer: int = knob(128, "tokens kept free for an answer; a longer one has failed", 2,
                           2**20)
    canvas: int = knob(0, "side of the square of positions, a power of two; 0: what fits", 0, 4096)
    oversample: float = knob(1.0, "how many times as often demonstrations of val and test are "
                             "shown, where task_embed trains on them", 0.01, 1000)
    downweight_above: int = knob(0, "tokens; a longer document is kept with probability "
                                 "downweight_above / length; 0: all are", 0)
    holdout: str = knob("", "\"0/8\": part 0 of 8 of the pairs, by hash, is kept from training for "
                        "refine.py to predict; demonstrations of val and test are not kept out")

    # -- the generator behind `oned` (arc/oned.py)
    oned_min_width: int = knob(7, "cells; families that need more get their minimum", 1, 1000)
    oned_max_width: int = knob(16, "cells of the widest row", 1, 1000)
    oned_families: str = knob("", "\"1d_fill,1d_flip\"; empty: all 18")
    oned_held_out: str = knob("", "families never trained on, which alone make up val and test")
    oned_lift: float = knob(0.2, "share of tasks lifted to 2D", 0, 1)
    oned_eval: int = knob(25, "tasks a family in val, and as many in test", 1, 1000)

    # -- the network (model.py)
    encoding: str = knob("quadtree", "a name in encodings/index.py; \"quadtree+rope3d\" is both")
    n_layer: int = knob(4, "blocks", 1, 1000)
    n_head: int = knob(2, "heads; n_embd / n_head must be even for rotary encodings", 1, 1000)
    n_kv_head: int = knob(2, "n_head / n_kv_head heads share a key and a value", 1, 1000)
    n_embd: int = knob(128, "C, channels", 1)
    n_mlp: int = knob(256, "hidden width of the MLP", 1)
    dropout: float = knob(0.0, "on the residual branches; pays only where data repeat", 0, 0.9999)
    qk_norm: bool = knob(False, "queries and keys are scaled to one length: ahead early in a run, "
                         "not shown to be better at its end")

    # -- optimisation
    optimizer: str = knob("muon_schedulefree", "or schedulefree, adamw, muon")
    learning_rate: float = knob(1e-2, "peak rate of Muon and AdamW; Muon's updates are scaled to "
                                "AdamW's size", 1e-30, 1e30)
    max_steps: int = knob(2400, "steps of batch_tokens", 0)
    batch_tokens: int = knob(1536, "tokens a step, in whole documents, of all ranks together; on "
                             "`oned` many small steps beat few large ones", 1, 2**24)
    micro_tokens: int = knob(0, "tokens at once; 0: all. Halved when memory runs out: the same "
                             "step, but for rounding and the masks of dropout", 0, 2**24)
    warmup: float = knob(0.02, "share of the steps in which the rate rises", 0, 1)
    decay: float = knob(0.3, "share of the steps, at the end, in which the rate of adamw and muon "
                         "falls to 0", 0, 1)
    weight_decay: float = knob(0.2, "on the matrices of blocks and head", 0)
    beta1: float = knob(0.9, "of AdamW's first moment; of schedule-free the interpolation", 0.01,
                        0.9999)
    beta2: float = knob(0.98, "of AdamW's second moment", 0, 0.9999)
    grad_clip: float = knob(1.0, "norm; 0: none", 0)

    # -- evaluation
    eval_every: int = knob(400, "steps", 1)
    views: int = knob(4, "distinct views that predict and vote on a test input", 1, 500)
    rerank_views: int = knob(0, "views under which the likelihood of each grid orders the "
                             "attempts; 0: votes do", 0, 500)
    samples: int = knob(0, "distinct views in which an answer is sampled, beside the likeliest; "
                        "for rerank_views to order", 0, 500)
    predict_tokens: int = knob(32768, "tokens of the documents decoded at once, about", 1)

    # -- the refinement network (refine.py), in out_dir/refine; the rest it takes from above
    refine_from: str = knob("", "checkpoint to go on from; empty: out_dir/ckpt.pt")
    refine_snapshots: str = knob("", "\"300,600\": with demos = 0, snapshots of those steps "
                                 "(keep_every) draft answers to pairs that are learned later")
    refine_train: str = knob("oned", "tasks to draft for training, new to that checkpoint; with "
                             "`holdout` the pairs held out are drafted instead")
    refine_tasks: int = knob(4000, "tasks to look for wrong answers in; more is better", 1, 10**6)
    refine_views: int = knob(4, "views drafted of each", 1, 500)
    refine_right: float = knob(0.25, "share of the drafts that are right", 0, 1)
    refine_steps: int = knob(2000, "steps more; every second one shows drafts", 0)

    # -- the machine
    device: str = knob("", "cuda, mps, cpu; empty: the first of these that works")
    dtype: str = knob("", "bfloat16 or float32; empty: bfloat16 on NVIDIA GPUs since Ampere")
    compile: bool = knob(True, "torch.compile and CUDA graphs, on CUDA in bfloat16")
    recompute: bool = knob(False, "activation checkpointing: activations are computed again in the "
                           "backward pass: less memory, about a third slower")
    workers: int = knob(-1, "processes of a rank that prepare steps; -1: 4 on CUDA at most, else 0",
                        -1, 256)
    log_every: int = knob(100, "steps", 1)
    tensorboard: bool = knob(False, "curves for TensorBoard in out_dir, too: needs that package")
    keep_every: int = knob(0, "steps between snapshots that are kept; 0: none", 0)

    def __post_init__(self):
        if self.tasks:
            self.test = self.tasks
        self.device = self.device.lower()
        for field in dataclasses.fields(self):
            value, low = getattr(self, field.name), field.metadata["low"]
            if isinstance(value, str) and value.startswith("~"):   # a shell leaves it after =
                setattr(self, field.name, os.path.expanduser(value))
            if isinstance(value, str) and not value.isprintable():
                raise UserError(f"{field.name} = {value!r} holds a character that no screen shows")
            if low is not None and not low <= value <= field.metadata["high"]:
                raise UserError(f"{field.name} = {value} is out of its range, {low} to "
                                f"{field.metadata['high']}")
        check_together(self)

    def micro_limit(self):
        """Returns how many tokens are processed at once at most."""
        return min(self.micro_tokens or self.batch_tokens, self.batch_tokens)


def check_together(c):
    """UserError where knobs contradict each other."""
    if c.oned_min_width > c.oned_max_width:
        raise UserError(f"oned_min_width = {c.oned_min_width} is larger than oned_max_width = "
                        f"{c.oned_max_width}")
    if c.samples and not c.rerank_views and not c.eval_only:   # may take it from the run
        raise UserError(f"samples = {c.samples}: only likelihood can order what was sampled: set "
                        "--rerank_views=8, say, or --samples=0")
    if c.max_answer >= c.max_len:
        raise UserError(f"max_answer = {c.max_answer} leaves no room for a prompt in max_len = "
                        f"{c.max_len}")
    if c.dtype not in ("", "bfloat16", "float32"):
        raise UserError(f"dtype {c.dtype!r}: there are bfloat16 and float32")
    if c.canvas & (c.canvas - 1):
        raise UserError(f"canvas = {c.canvas} is not a power of two")
    if c.resume and (c.init_from or c.overwrite or c.eval_only):
        raise UserError("--resume goes on with a run; it goes with none of --init_from, "
                        "--overwrite and --eval_only")
    if c.eval_only and c.overwrite:
        raise UserError("--eval_only trains nothing, so there is nothing to --overwrite")
    for total, part in (("n_embd", "n_head"), ("n_head", "n_kv_head")):
        if getattr(c, total) % getattr(c, part):
            raise UserError(f"{total} = {getattr(c, total)} must be a multiple of {part} = "
                            f"{getattr(c, part)}")
    if c.oversample != 1 and not c.task_embed:
        raise UserError(f"oversample = {c.oversample} is how often demonstrations of val and test "
                        "are trained on, and without task_embed they are not: set --oversample=1 "
                        "or --task_embed=True")
    if c.demos == 0 and not c.task_embed:
        raise UserError("demos = 0 and task_embed = False: nothing would tell the rule; set "
                        "--demos=3 or --task_embed=True")
    if c.max_len > c.micro_limit():
        raise UserError(f"a document may have max_len = {c.max_len} tokens, but only "
                        f"{c.micro_limit()} are processed at once: lower --max_len or raise "
                        "--batch_tokens and --micro_tokens")


# ------------------------------------------------------------------------------------------------
# The loader

KINDS = Config.__annotations__                 # knob -> type


def read_value(key, value, where):
    """Returns a value as the type of its knob; text is read as a literal unless that is str."""
    kind = KINDS[key]
    if isinstance(value, str) and kind is not str:
        try:                                   # true and false, too
            value = ast.literal_eval(value.capitalize() if kind is bool else value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass                               # it stays text, and is refused below
    if type(value) is int and value.bit_length() > 64:
        raise UserError(f"{where}: {key} is an integer of {value.bit_length()} bits")
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not kind:
        wanted = "True or False" if kind is bool else kind.__name__
        raise UserError(f"{where}: {key} = {value!r} is of type {type(value).__name__}; {key} "
                        f"takes {wanted}")
    return value


def read_config(path):
    """Returns the plain assignments of a config file.

    Imports, functions and names that begin with _ are the file's own business.
    """
    here = Path(__file__).parent
    for place in (Path(path), here.parent / path):
        if place.is_file() and place.suffix == ".py":
            break
    else:
        known = [f"config/{file.name}" for file in sorted(here.glob("[!_]*.py"))]
        near = difflib.get_close_matches(f"config/{Path(path).stem}.py", known, 1)
        raise UserError(f"{path}: no such config file (a .py file); "
                        + (f"did you mean {near[0]}? " if near else "")
                        + f"There are {', '.join(known)}")
    try:
        found = runpy.run_path(str(place))
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from None
    assigned = {}
    for key, value in found.items():
        own = key.startswith("_") or callable(value) or isinstance(value, types.ModuleType)
        if key in KINDS or not own:
            assigned[key] = value
    return assigned


def unknown_knob(key, where):
    near = difflib.get_close_matches(key, KINDS, 1)
    near += [name for name in KINDS if "".join(word[0] for word in name.split("_")) == key]
    cure = "; config/__init__.py lists them, and --help prints them"
    if key.startswith("no_") and key[3:] in KINDS:
        cure = f"; write --{key[3:]}=False"
    elif near:
        cure = f"; did you mean {near[0]} ({KINDS[near[0]].__name__})?"
    return UserError(f"{where}: there is no knob {key!r}{cure}")


def usage():
    lines = ["python train.py [config/NAME.py] --key=value ...   (a bare --key means True)"]
    for field in dataclasses.fields(Config):
        lines.append(f"  {f'--{field.name}={field.default!r}':34} {field.metadata['advice']}")
    return "\n".join(lines)


def load_config(argv):
    """Returns (Config, {key: value} as given) of `[config file] --key=value ...`.

    A bare --key means True. UserError names an unknown key or a wrong type, and the cure.
    """
    given, name = {}, ""
    for arg in argv:
        if arg in ("-h", "--help"):
            print(usage())
            raise SystemExit(0)
        if re.match("-[^-]", arg):
            raise UserError(f"{arg}: knobs are written with two dashes, --key=value")
        if arg.startswith("--"):
            key, equals, value = arg[2:].partition("=")
            key, where = key.replace("-", "_"), "command line"
            if not equals and KINDS.get(key, bool) is not bool:
                raise UserError(f"--{key} needs a value, and is written --{key}=VALUE "
                                f"({KINDS[key].__name__})")
            found = {key: value if equals else "True"}
        else:
            if name:
                raise UserError(f"{arg}: a second config file; a file may build on another: from "
                                f"config.{name} import *")
            found, where, name = read_config(arg), arg, Path(arg).stem
        for key, value in found.items():
            if key not in KINDS:
                raise unknown_knob(key, where)
            given[key] = read_value(key, value, where)
    given["out_dir"] = given.get("out_dir") or f"out/{name or 'run'}"
    return Config(**given), given
