"""Two processes train the run of one: the same losses, predictions and files."""
import json
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY, checkpoint, flags, records

from engine.optim import OPTIMIZERS

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ARMS = [*OPTIMIZERS, "tasks", "base/refine"]


def start(command):
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of the same runs by one process and by two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    script = str(ROOT / "tests" / "several_ranks.py")
    runs = [start([sys.executable, script, str(one)]), start([*TORCHRUN, script, str(two)])]
    for run in runs:
        _, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
    return one, two


@pytest.mark.parametrize("arm", ARMS)
def test_two_ranks_have_the_losses_of_one(folders, arm):
    one, two = (folder / arm for folder in folders)
    for kind in ("train", "val", "test"):
        pairs = list(zip(records(one, kind), records(two, kind), strict=True))
        assert pairs
        for a, b in pairs:
            assert a["step"] == b["step"]
            assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), rel=1e-4)
    assert (one / "submission.json").read_text() == (two / "submission.json").read_text()
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())


def test_a_checkpoint_does_not_know_how_many_wrote_it(folders):
    one, two = (checkpoint(folder / "adamw") for folder in folders)
    assert one.keys() == two.keys() and one["config"].keys() == two["config"].keys()
    for name in ("model", "training"):
        for key in one[name]:
            assert torch.allclose(one[name][key], two[name][key], atol=1e-5), key
    differing = {key for key in one["config"] if one["config"][key] != two["config"][key]}
    assert differing == {"out_dir"}


@pytest.mark.parametrize("first, then", [(1, 0), (0, 1)])
def test_ranks_may_change_on_resume(folders, first, then, tmp_path):
    """15 steps by two processes, 15 by one, and the reverse."""
    given = json.loads((folders[first] / "muon" / "config.json").read_text())["given"]
    knobs = flags(**{**given, "out_dir": tmp_path, "resume": True})
    shutil.copy(folders[first] / "muon" / "half" / "ckpt.pt", tmp_path)
    run = start([*([sys.executable], TORCHRUN)[then], "train.py", *knobs])
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    whole = records(folders[first] / "muon", "train")[15:]
    rest = records(tmp_path, "train")
    assert [record["step"] for record in rest] == list(range(16, 31))
    for a, b in zip(whole, rest, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_several_hosts_train_the_run_of_one(folders, tmp_path):
    """Two torchruns that meet by an address and a port, as on two machines."""
    given = json.loads((folders[0] / "adamw" / "config.json").read_text())["given"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
    knobs = flags(**{**given, "out_dir": tmp_path / "run", "max_steps": 10})
    hosts = [start([*TORCHRUN[:3], *meet, f"--node_rank={k}", "train.py", *knobs]) for k in (0, 1)]
    for host in hosts:
        _, err = host.communicate(timeout=120)
        assert host.returncode == 0, err
    losses = [[record["loss"] for record in records(folder, "train")[:10]]
              for folder in (folders[0] / "adamw", tmp_path / "run")]
    # the rate decays towards another end, which the first steps are far from
    assert losses[1][:5] == pytest.approx(losses[0][:5], rel=1e-4) and len(losses[1]) == 10


def test_a_mistake_ends_all_ranks_with_one_message(tmp_path):
    run = start([*TORCHRUN, "train.py", *flags(**{**TINY, "out_dir": tmp_path / "a", "demos": 0})])
    _, err = run.communicate(timeout=120)
    assert run.returncode != 0
    assert err.count("error: demos = 0 and task_embed = False") == 1


def test_a_rank_that_dies_ends_the_others(tmp_path):
    knobs = {**TINY, "out_dir": tmp_path / "a", "max_steps": 10**6, "eval_every": 20}
    run = start([*TORCHRUN, "train.py", *flags(**knobs)])
    for line in run.stdout:
        if line.startswith("  val:"):
            break
    children = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True)
    subprocess.run(["kill", "-9", children.stdout.split()[-1]], check=True)
    run.stdout.read()
    err = run.stderr.read()
    assert run.wait(timeout=60) != 0
    assert err.count("error: another rank died") <= 1 and "all_reduce" not in err
    assert checkpoint(tmp_path / "a")["step"] >= 20
