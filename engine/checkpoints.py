"""Checkpoints: one dict of tensors, numbers, strings and plain containers, and what it starts."""
import dataclasses
import zipfile
from pathlib import Path

import torch

from arc.leaks import key_text, task_key
from arc.views import SYMMETRIES
from config import Config, UserError
from model import GPT, ModelConfig

# knobs of a call, which a checkpoint's config says nothing of
CALL = ("out_dir", "overwrite", "resume", "init_from", "eval_only", "tasks", "device", "dtype",
        "compile", "recompute", "workers", "tensorboard")
# knobs that do not change what is trained
MAY_CHANGE = {*CALL, "log_every", "eval_every", "keep_every", "views", "rerank_views",
              "samples", "predict_tokens", "micro_tokens"} - {"dtype"}

KIND = "nanoarc checkpoint 4"


def load_checkpoint(path, network="GPT", cure="train first, or name one with --init_from="):
    """Returns the dict of a checkpoint, on the CPU, and its `path` in it.

    Nothing in the file is executed (weights_only).
    network: the class whose weights it must hold. UserError names the file and what is wrong.
    """
    if Path(path).is_dir():
        cure = ("it is a folder: name the ckpt.pt in it. A Hugging Face folder is a start for "
                "training, without --eval_only")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; {cure}")
    try:
        with zipfile.ZipFile(path) as file:    # torch does not look at its checksums
            damaged = file.testzip()
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:                 # whatever torch makes of a file cut short
        raise UserError(f"{path}: not a readable checkpoint, perhaps cut short "
                        f"({type(error).__name__})") from None
    if damaged:
        raise UserError(f"{path}: damaged, the checksum of its part {damaged} is wrong; take "
                        "another checkpoint of the run, or a copy")
    kind = checkpoint.get("kind") if isinstance(checkpoint, dict) else None
    if kind != KIND:
        older = "; train again" if str(kind).startswith("nanoarc checkpoint") else ""
        raise UserError(f"{path}: a file of another program, or of another version: its kind is "
                        f"{kind!r} and not {KIND!r}{older}")
    if checkpoint.get("network") != network:
        raise UserError(f"{path}: holds a {checkpoint.get('network')}, and a {network} is needed "
                        "here (train.py writes GPT, refine.py Refiner)")
    try:
        check_content(checkpoint)
    except Exception as error:
        raise UserError(f"{path}: damaged, edited, or written by other code than this ({error}); "
                        "take a copy, another checkpoint of the run, or the code of then") from None
    for name, weights in checkpoint["model"].items():
        if not weights.isfinite().all():
            raise UserError(f"{path}: the weights {name} are not all numbers; take an earlier "
                            "checkpoint, or train again with a lower --learning_rate")
    return {**checkpoint, "path": Path(path)}


# the parts of every checkpoint and their types
CONTENT = dict(config=dict, model_config=dict, task_ids=list, step=int, seconds=float, data=str,
               model=dict, versions=dict, trained_keys=list)


def check_content(checkpoint):
    """ValueError, or another, where a checkpoint's dict is not what Run.save writes."""
    for key, kind in CONTENT.items():
        if not isinstance(checkpoint.get(key), kind):
            raise ValueError(f"{key} is no {kind.__name__}")
    if checkpoint["step"] < 0:
        raise ValueError(f"step is {checkpoint['step']}")
    # knobs that this code lacks are left out; an optimizer's state keeps its own numbers
    knobs = {field.name for field in dataclasses.fields(Config)}
    checkpoint["lacking"] = sorted(checkpoint["config"].keys() - knobs)
    for name in checkpoint["lacking"]:
        del checkpoint["config"][name]
    for part, kind in (("config", Config), ("model_config", ModelConfig)):
        for field in dataclasses.fields(kind):
            if type(checkpoint[part].get(field.name, field.default)) is not field.type:
                what = f"is no {field.type.__name__}"
                if field.name not in checkpoint[part]:
                    what = "is lacking, and has no default"
                raise ValueError(f"{part}: {field.name} {what}")
    Config(**checkpoint["config"])                  # looks at the ranges
    if checkpoint["best"] is not None:
        checkpoint["best"] = tuple(map(float, checkpoint["best"]))
    n_tasks = checkpoint["model_config"]["n_tasks"]
    if n_tasks != (len(checkpoint["task_ids"]) + 1 if checkpoint["task_ids"] else 0):
        raise ValueError(f"{len(checkpoint['task_ids'])} tasks for a table of {n_tasks} rows")
    {(name, key) for name, key in checkpoint["task_ids"]}    # pairs that can be looked up
    bytes.fromhex("".join(checkpoint["trained_keys"]))
    with torch.device("meta"):
        expected = GPT(ModelConfig(**checkpoint["model_config"])).state_dict()
    for part in ("model", "training"):
        wrong = sizes(checkpoint.get(part, expected)) ^ sizes(expected)
        if wrong:
            name = min(name for name, *_ in wrong)
            found, wanted = (f"{weights[name].dtype} {tuple(weights[name].shape)}"
                             if name in weights else "lacking"
                             for weights in (checkpoint[part], expected))
            raise ValueError(f"{part}: {name} is {found}, and this code's is {wanted}")


def snapshot_name(step):
    """Returns the file name of a snapshot that is kept (`keep_every`)."""
    return f"step_{step:06d}.pt"


def sizes(weights):
    return {(name, tensor.shape, tensor.dtype) for name, tensor in weights.items()}


def model_config(config, canvas, n_tasks):
    """Returns the ModelConfig of a Config. n_tasks: rows of the task embedding, 0 for none."""
    shared = {name: value for name, value in vars(config).items()
              if name in ModelConfig.__annotations__}
    return ModelConfig(**{**shared, "canvas": canvas, "n_pairs": config.demos + 1,
                          "n_tasks": n_tasks, "n_views": SYMMETRIES if config.view_embed else 0})


def check_same_network(checkpoint, wanted, cure=""):
    """UserError naming every knob in which a checkpoint's network differs from the wanted one."""
    differences = differing(checkpoint["model_config"], wanted, ["dropout", "pretrained"])
    if differences:
        raise UserError(f"{checkpoint['path']}: another network: {differences}{cure}")


def check_views(checkpoint, config):
    """UserError where views would show a checkpoint's network what it never saw."""
    for knob, what in (("symmetries", "turned"), ("colors", "recolored")):
        if getattr(config, knob) and not checkpoint["config"][knob]:
            raise UserError(f"{checkpoint['path']}: the network never saw a task {what}: set "
                            f"--{knob}=False")


# the knob behind a field of ModelConfig, where it has another name
KNOBS = {"n_pairs": "demos + 1", "n_tasks": "tasks trained on", "n_views": "view_embed * 8"}


def differing(was, config, may_change):
    """Returns which fields of a config differ from a checkpoint's dict, but for may_change.

    A field that is newer than the checkpoint had its default.
    """
    differences = []
    for field in dataclasses.fields(config):
        there, here = was.get(field.name, field.default), getattr(config, field.name)
        if there != here and field.name not in may_change:
            name = KNOBS.get(field.name, field.name)
            differences.append(f"{name} was {there!r} and is {here!r}")
    return "; ".join(differences)


def as_trained(config, given, checkpoint):
    """Returns the config with every knob that is not given as the checkpoint's run had it."""
    trained = {name: value for name, value in checkpoint["config"].items()
               if name not in given and name not in CALL}
    return dataclasses.replace(config, **trained)


def rebuild(checkpoint, device="cpu"):
    """Returns the GPT of a checkpoint's dict, with its averaged weights, in eval mode."""
    model = GPT(ModelConfig(**checkpoint["model_config"]))
    model.load_state_dict(checkpoint["model"])
    return model.to(device).eval()


def keys_trained_on(pairs, checkpoint):
    """Returns the keys of pairs, and of those that a checkpoint's network was trained on before.

    Checkpoints hold them, as a task is no test of a network that saw its answer in an earlier run.
    Not known are pairs of generated tasks; and turned or recolored ones have other keys.
    """
    return sorted({*map(key_text, pairs), *(checkpoint["trained_keys"] if checkpoint else [])})


def start_from(model, task_ids, checkpoint):
    """Starts from a checkpoint's weights. Rows of the task embedding go by task id.

    A task without a row starts as the mean of all rows.
    """
    was, weights = dict(checkpoint["model_config"]), checkpoint["model"]
    if bool(was["n_tasks"]) != bool(model.config.n_tasks):
        raise UserError(f"{checkpoint['path']}: a network {'with' if was['n_tasks'] else 'without'}"
                        " a task embedding; set --task_embed to match")
    was["n_tasks"] = model.config.n_tasks      # the table may grow or shrink
    check_same_network({**checkpoint, "model_config": was}, model.config)
    if was["n_tasks"]:
        old = weights["task.weight"]
        row_of, mean = dict(zip(checkpoint["task_ids"], old[1:])), old.mean(0)
        rows = [row_of.get(task_id, mean) for task_id in task_ids]
        weights["task.weight"] = torch.stack([old[0], *rows])    # row 0 is for tasks never seen
    model.load_state_dict(weights)
    model.config.pretrained = checkpoint["model_config"].get("pretrained", "")


def task_rows(task_ids, tasks):
    """Returns {task id: row of the task embedding} of the tasks that were trained on.

    task_ids: (id, hash of the demonstrations) of rows 1, 2, ...; a task must agree in both. Other
    tasks are not in the dict, and documents give them row 0.
    """
    row_of = {key: row for row, key in enumerate(task_ids, 1)}
    keys = [(task.id, task_key(task)) for task in tasks]
    return {key[0]: row_of[key] for key in keys if key in row_of}


def check_trained_on(config, tasks, row_of):
    """UserError where rules live in the weights and a task was not trained on."""
    unknown = [task.id for task in tasks if task.id not in row_of]
    if config.demos == 0 and unknown:
        raise UserError(f"{len(unknown)} tasks, {unknown[0]} the first, were not trained on, and "
                        "this network keeps rules in its weights: `python train.py CONFIG "
                        f"--tasks={config.tasks or config.test}` trains with their demonstrations "
                        "and solves them")
