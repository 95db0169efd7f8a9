"""Every knob, its default, its unit and a line of advice; and the loader.

A config file is a list of plain assignments; `--key=value` on the command line comes after it:
    python train.py config/quadtree.py --learning_rate=1e-3
"""
import ast
import difflib
import os
import runpy
import types
from dataclasses import dataclass, fields
from pathlib import Path


os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")     # torch reads it when imported; drafting reserves 26 GiB, not 45


class UserError(ValueError):
    """Something its reader can mend: shown without a traceback. The text names the value and the cure."""


def names(text):
    """The parts of a knob that lists several, "a, b"."""
    return [name.strip() for name in text.split(",") if name.strip()]


RANGES = (                                                     # knobs, the least and the most they may be
    ("max_steps demos keep_every micro_tokens frame rate_views", 0, 10 ** 9),
    ("batch_tokens n_layer n_head n_kv_head n_embd n_mlp views draft_tokens eval_every log_every oned_eval oned_min_width", 1, 10 ** 9),
    ("refine_steps short", 0, 10 ** 9), ("focus", 0.01, 1000),
    ("refine_tasks refine_views refine_layers refine_loops", 1, 10 ** 9), ("refine_temperature", 0, 10),
    ("refine_right refine_corrupt", 0, 1), ("refine_wrong", 1, 1000),
    ("max_len", 8, 10 ** 9), ("max_answer", 2, 10 ** 9), ("seed", 0, 2 ** 31 - 1), ("workers", -1, 256),
    ("dropout beta2", 0, 0.9999), ("beta1", 0.01, 0.9999), ("warmup decay oned_lift", 0, 1), ("weight_decay embed_decay grad_clip", 0, 10 ** 6),
)


@dataclass
class Config:
    # -- the run
    out_dir: str = ""               # what the run leaves; empty: out/<name of the config file>
    overwrite: bool = False         # start anew in an out_dir that holds a run
    resume: bool = False            # go on from out_dir/ckpt.pt, exactly
    init_from: str = ""             # a checkpoint whose weights to start from; step, optimizer and best score start anew
    eval_only: bool = False         # solve `test` (or `tasks`) with out_dir/ckpt.pt or init_from; train, val, focus, short and the like do nothing
    seed: int = 1

    # -- data. A source is oned, a JSON file, a directory, arc1:training, arc1:evaluation, arc2:...; join with +, take 100 tasks with #100,
    #    the first 16 demonstrations of each with @16 (re_arc/tasks@16, re_arc/tasks@16#100)
    train: str = "oned"
    val: str = "oned"               # curves, best.pt, every choice
    test: str = "oned"              # scored once, at the end; empty: not scored
    tasks: str = ""                 # a task file of yours to solve: takes the place of `test`
    demos: int = 3                  # most demonstrations in a document; 0: none (then task_embed must hold the rule)
    task_embed: bool = False        # learn a vector for each task (the transductive form; on top of demos: both)
    view_embed: bool = False        # learn a vector for each of the 8 symmetries
    symmetries: bool = False        # train and vote under the 8 symmetries of the square
    colors: bool = True             # train and vote under permutations of the colours 1..9
    max_len: int = 1024             # tokens of a document; demonstrations that do not fit are left out and counted
    max_answer: int = 128           # tokens kept free for an answer; a longer draft has failed
    frame: int = 0                  # side of the square of positions, a power of two; 0: the smallest that fits the data
    focus: float = 1.0              # with task_embed: how many times as often training shows the demonstrations of val and test as other pairs
    short: int = 0                  # tokens; training shows a longer document (so fewer with many demonstrations) short / length times as often; 0: as any
    fold: str = ""                  # "0/8" holds out an eighth of the pairs, by hash, but for the demonstrations of val and test: refine.py drafts these

    # -- the generator behind `oned` (data/oned.py)
    oned_min_width: int = 7         # cells; families that need more get their minimum
    oned_max_width: int = 16
    oned_families: str = ""         # "1d_fill,1d_flip"; empty: all 18
    oned_held_out: str = ""         # families that are never trained on, and alone make up val and test
    oned_lift: float = 0.2          # share of tasks lifted to 2D (a little less in training: a step ends before a task that is too long)
    oned_eval: int = 25             # tasks a family in val, and as many in test

    # -- the network (model.py)
    encoding: str = "quadtree"      # a name in encodings/index.py; "quadtree+rope3d" is both
    n_layer: int = 4
    n_head: int = 2                 # heads; n_embd / n_head must be even for rotary encodings
    n_kv_head: int = 2              # grouped-query attention: n_head / n_kv_head heads share a key and a value
    n_embd: int = 128               # C, channels
    n_mlp: int = 256                # hidden width of SwiGLU
    dropout: float = 0.0            # on the residual branches; worth it only where data repeat

    # -- optimisation
    optimizer: str = "muon_schedulefree"   # or schedulefree, adamw, muon
    learning_rate: float = 1e-2     # Muon is scaled to AdamW's update size, so one rate serves both
    max_steps: int = 2400
    batch_tokens: int = 1536        # tokens a step, in whole documents; many small steps beat few large ones on `oned`
    micro_tokens: int = 0           # tokens at once; 0: all. When memory runs out it is halved, and a line says so
    warmup: float = 0.02            # share of the steps
    decay: float = 0.3              # share of the steps, adamw and muon only: linear to zero
    weight_decay: float = 0.2       # on matrices
    embed_decay: float = 0.0        # on embeddings and the encoding's projection
    beta1: float = 0.9              # AdamW, and the interpolation of schedule-free
    beta2: float = 0.98
    grad_clip: float = 1.0          # norm; 0: none

    # -- evaluation
    eval_every: int = 400           # steps
    views: int = 4                  # distinct views drafted and voted on a test input
    rate_views: int = 0             # drafts (and corrections) are ranked by how likely their grid is under so many views; 0: by votes
    draft_tokens: int = 32768       # tokens of the documents decoded at once, about: what memory for keys and values allows

    # -- the refinement network (refine.py), in out_dir/refine; what is not here it takes from above
    refine_from: str = ""           # the checkpoint whose drafts are refined; empty: out_dir/ckpt.pt
    refine_train: str = "oned"      # tasks to draft for training, which that checkpoint must not know: oned, or sources as above;
                                    # seen: those it was trained on (a control: it learns to copy). With `fold` it is not read: the pairs held out are drafted
    refine_tasks: int = 4000        # tasks to look for failing drafts in; more is better, 3 ms each on 2 CPU cores
    refine_views: int = 4           # views drafted of each; the refiner is told what share of them agrees, so not 1
    refine_temperature: float = 0.7 # one more draft of each, sampled; 0: none
    refine_right: float = 0.25      # share of documents whose draft is right, to learn to leave well alone
    refine_corrupt: float = 0.15    # share whose draft is a damaged answer; 1: nothing else (a control). Above a third it learns noise
    refine_draft: bool = True       # False: the draft's size alone is told (a control)
    refine_layers: int = 2          # bidirectional blocks on top of a copy of the drafting network, applied refine_loops times
    refine_loops: int = 2           # each corrects what the one before said
    refine_wrong: float = 4.0       # weight of a cell that is wrong, where others count 1
    refine_steps: int = 1000        # of batch_tokens; a step costs about refine_loops steps of train.py; with task_embed one more, to rehearse
    refine_learning_rate: float = 1e-2

    # -- the machine
    device: str = ""                # cuda, mps, cpu; empty: the first of these that works
    dtype: str = ""                 # autocast: bfloat16 or float32; empty: bfloat16 on NVIDIA GPUs since Ampere, float32 elsewhere
    compile: bool = True            # torch.compile and CUDA graphs: train.py, on CUDA, in bfloat16
    workers: int = -1               # processes that prepare batches (tasks from files: one at most; refine.py: none); -1: 4 on CUDA, else 0
    log_every: int = 100             # steps
    keep_every: int = 0             # steps between snapshots that are kept; 0: none

    def __post_init__(self):
        if self.tasks:
            self.test = self.tasks
        self.device = self.device.lower()
        for keys, least, most in RANGES:
            for key in keys.split():
                if not least <= getattr(self, key) <= most:
                    raise UserError(f"{key} = {getattr(self, key)} is out of its range, {least} to {most}")
        for key in ("learning_rate", "refine_learning_rate"):
            if not getattr(self, key) > 0:
                raise UserError(f"{key} = {getattr(self, key)} must be larger than 0")
        if self.refine_right + self.refine_corrupt > 1:
            raise UserError(f"refine_right = {self.refine_right} and refine_corrupt = {self.refine_corrupt} are shares of the same documents: "
                            "together at most 1")
        if self.oned_min_width > self.oned_max_width:
            raise UserError(f"oned_min_width = {self.oned_min_width} is larger than oned_max_width = {self.oned_max_width}")
        if self.max_answer >= self.max_len:
            raise UserError(f"max_answer = {self.max_answer} leaves no room for a prompt in max_len = {self.max_len}")
        if self.dtype not in ("", "bfloat16", "float32"):
            raise UserError(f"dtype {self.dtype!r}: there are bfloat16 and float32")
        if self.resume and (self.init_from or self.overwrite or self.eval_only):
            raise UserError("--resume goes on with a run; it goes with none of --init_from, --overwrite and --eval_only")
        for total, part in (("n_embd", "n_head"), ("n_head", "n_kv_head")):
            if getattr(self, total) % getattr(self, part):
                raise UserError(f"{total} = {getattr(self, total)} must be a multiple of {part} = {getattr(self, part)}")
        if self.focus != 1 and not self.task_embed:
            raise UserError(f"focus = {self.focus} is how often demonstrations of val and test are trained on, and without task_embed they are "
                            "not: set --focus=1 or --task_embed=True")
        if self.demos == 0 and not self.task_embed:
            raise UserError("demos = 0 and task_embed = False: nothing would tell the rule; set --demos=3 or --task_embed=True")
        if self.max_len > self.micro_limit():
            raise UserError(f"a document may have max_len = {self.max_len} tokens, but only {self.micro_limit()} are processed "
                            "at once: lower --max_len or raise --batch_tokens and --micro_tokens")

    def micro_limit(self):
        return min(self.micro_tokens or self.batch_tokens, self.batch_tokens)


def read_value(key, value, kind, where):
    """A value as the type of its field; text is read as a Python literal unless the field takes text."""
    if isinstance(value, str) and kind is not str:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pass                                               # stays text, and is refused below with the type it should have
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{where}: {key} = {value!r} is of type {type(value).__name__}; {key} takes {kind.__name__}")
    return value


def read_config(path):
    """The plain assignments of a config file; imports, functions and names that begin with _ are its own business."""
    here = Path(__file__).parent
    for place in (Path(path), here.parent / path):
        if place.is_file() and place.suffix == ".py":
            break
    else:
        raise UserError(f"{path}: no such config file (a .py file); there are {', '.join(f'config/{p.name}' for p in sorted(here.glob('[!_]*.py')))}")
    try:
        found = runpy.run_path(str(place))
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from None
    return {key: value for key, value in found.items()
            if not key.startswith("_") and not callable(value) and not isinstance(value, types.ModuleType)}


def load(argv):
    """[config file] --key=value ... -> (Config, {key: value} as given). A bare --key means True."""
    kinds = {field.name: field.type for field in fields(Config)}
    given, name = {}, "run"
    for arg in argv:
        if arg in ("-h", "--help"):
            raise SystemExit("python train.py config/NAME.py --key=value ...   The knobs, with advice, are in config/__init__.py; their defaults:\n"
                             + "\n".join(f"  --{field.name}={field.default!r}" for field in fields(Config)))
        if arg.startswith("--"):
            key, equals, value = arg[2:].partition("=")
            key, where = key.replace("-", "_"), "command line"
            if not equals and kinds.get(key, bool) is not bool:
                raise UserError(f"--{key} needs a value, and is written --{key}=VALUE ({kinds[key].__name__})")
            found = {key: value if equals else "True"}
        else:
            found, where, name = read_config(arg), arg, Path(arg).stem
        for key, value in found.items():
            if key not in kinds:
                near = difflib.get_close_matches(key, kinds, 1, 0.6) or [k for k in kinds if "".join(w[0] for w in k.split("_")) == key]
                raise UserError(f"{where}: there is no knob {key!r}" + (f"; did you mean {near[0]} ({kinds[near[0]].__name__})?" if near
                                                                      else "; config/__init__.py lists them, and --help prints them"))
            given[key] = read_value(key, value, kinds[key], where)
    given["out_dir"] = given.get("out_dir") or f"out/{name}"
    return Config(**given), given
