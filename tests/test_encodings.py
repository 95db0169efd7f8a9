"""The encodings: worked cells, what rotation sees, and that a new one is a file and an entry in a list."""
import math
import shutil
import subprocess
import sys

import pytest
import torch

from config import UserError
from conftest import ROOT, TINY, flags, records, tiny_shape
from model import GPT, apply_rotary, rotary_of
from positions.index import ENCODINGS, build

ROTARY = ["rope", "rope2d", "rope3d"]


def place(row, column, index=0, plane=0):
    return torch.tensor([[index, plane, row, column]])


def features(name, row, column, **shape):
    return build(tiny_shape(encoding=name, **shape)).features(place(row, column))[0]


@pytest.mark.parametrize("name", ["learned", "onehot", "quadtree", "sinusoidal", "onehot+sinusoidal+rope2d"])
def test_all_start_equally_loud(name):
    """Root mean square 1 of what is added, over the cells of a frame: else a comparison compares loudness."""
    torch.manual_seed(0)
    network = GPT(tiny_shape(encoding=name, n_embd=256, n_head=2, n_kv_head=2, frame=32, max_len=1024))
    coords = torch.tensor([[i, 0, i // 32, i % 32] for i in range(1024)])
    assert abs(network.encoding(coords).square().mean().sqrt().item() - 1) < 0.15


# --------------------------------------------------------------------------------------------------------------------
# Worked cells

@pytest.mark.parametrize("row, column, digits", [(5, 0, "101 000"), (0, 5, "000 101"), (7, 4, "111 100"), (1, 2, "001 010")])
def test_quadtree_gives_the_binary_digits(row, column, digits):
    expected = [2.0 * int(c) - 1 for c in digits.replace(" ", "")]
    assert features("quadtree", row, column, frame=8).tolist() == expected


def test_quadtree_neighbours_share_their_coarse_digits():
    whole = torch.stack([features("quadtree", row, 0, frame=32) for row in range(32)])
    assert len(set(map(tuple, whole.tolist()))) == 32
    assert torch.equal(whole[16:, 0], torch.ones(16)) and torch.equal(whole[:16, 0], -torch.ones(16))


def test_onehot_sets_one_for_the_row_and_one_for_the_column():
    f = features("onehot", 5, 2, frame=8)
    assert f.nonzero().flatten().tolist() == [5, 8 + 2] and f.sum() == 2


def test_sinusoidal_values():
    f = features("sinusoidal", 3, 2, n_embd=8)                 # two speeds: 1 and 1 / 100
    expected = [f(x) for x in (3, 2) for f, x in ((math.sin, x), (math.sin, x / 100), (math.cos, x), (math.cos, x / 100))]
    assert torch.allclose(f, torch.tensor(expected))


def test_learned_is_a_table_of_indices():
    encoding = build(tiny_shape(encoding="learned"))
    assert torch.equal(encoding(place(3, 4, index=9)), encoding.table.weight[9:10])


def test_none_adds_nothing():
    encoding = build(tiny_shape(encoding="none"))
    assert encoding(place(1, 2)) == 0 and encoding.angles(place(1, 2)) is None and not list(encoding.parameters())


@pytest.mark.parametrize("frame", [8, 32, 128])
@pytest.mark.parametrize("name, dim", [("onehot", lambda f: 2 * f), ("quadtree", lambda f: 2 * round(math.log2(f))),
                                       ("sinusoidal", lambda f: 32), *[(name, lambda f: 0) for name in ["none", *ROTARY]]])
def test_dimensions(name, dim, frame):
    encoding = build(tiny_shape(encoding=name, frame=frame))
    assert encoding.dim == dim(frame)
    if encoding.dim:
        last = encoding.features(place(frame - 1, frame - 1))
        assert last.shape == (1, encoding.dim) and encoding(place(0, 0)).shape == (1, 32)


@pytest.mark.parametrize("name", ENCODINGS)
def test_one_token_a_step_gives_what_many_at_once_give(name):
    encoding, coords = build(tiny_shape(encoding=name)), torch.randint(0, 8, (20, 4), generator=torch.Generator().manual_seed(0))
    for part in (encoding, encoding.angles):
        whole = part(coords)
        if isinstance(whole, torch.Tensor):
            assert torch.allclose(whole, torch.cat([part(coords[i:i + 1]) for i in range(20)]), atol=1e-6)


# --------------------------------------------------------------------------------------------------------------------
# Rotation

@pytest.mark.parametrize("name", ROTARY)
@pytest.mark.parametrize("hs", [2, 4, 6, 8, 12, 16, 32, 64])
def test_angles_of_every_head_size(name, hs):
    encoding = build(tiny_shape(encoding=name, n_head=2, n_embd=2 * hs))
    assert encoding.angles(torch.zeros(5, 4, dtype=torch.long)).shape == (5, 1, hs // 2)
    first = encoding.angles(place(1, 1, index=1, plane=1))[0, 0]
    assert first.max() == 1 and first.min() > 0                # the fastest pair turns by one for each step


@pytest.mark.parametrize("name, axes", [("rope", {0}), ("rope2d", {2, 3}), ("rope3d", {1, 2, 3})])
def test_angles_turn_along_their_axes_only(name, axes):
    encoding = build(tiny_shape(encoding=name, n_head=1, n_embd=32))
    for axis in range(4):
        step = torch.zeros(1, 4, dtype=torch.long)
        step[0, axis] = 1
        assert bool(encoding.angles(step).any()) == (axis in axes)
    counts = [int((encoding.angles(torch.eye(4, dtype=torch.long)[axis:axis + 1]) > 0).sum()) for axis in sorted(axes)]
    assert counts == {"rope": [16], "rope2d": [8, 8], "rope3d": [4, 6, 6]}[name]


@pytest.mark.parametrize("name", ROTARY)
def test_rotated_products_depend_on_differences_only(name):
    encoding, rng = build(tiny_shape(encoding=name, n_head=1, n_embd=32)), torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 32, generator=rng)
    turn = lambda x, coords: apply_rotary(x, rotary_of(encoding.angles(coords)))
    product = lambda a, b: (turn(q, a) * turn(k, b)).sum()
    a, b, shift = torch.randint(0, 20, (3, 1, 4), generator=rng)
    assert torch.allclose(product(a, b), product(a + shift, b + shift), atol=1e-4)
    assert not torch.allclose(product(a, b), product(a + shift, b), atol=1e-2)
    assert torch.allclose(turn(q, a).norm(), q.norm())


# --------------------------------------------------------------------------------------------------------------------
# By name

def test_two_encodings_are_their_sum_and_one_of_them_may_turn():
    torch.manual_seed(0)
    both, coords = build(tiny_shape(encoding="quadtree+onehot+rope3d")), torch.randint(0, 8, (20, 4))
    quadtree, onehot, rope = both.parts
    assert torch.allclose(both(coords), (quadtree(coords) + onehot(coords)) / 2 ** 0.5) and both(coords).any() and both.dim == quadtree.dim + 16
    assert torch.equal(build(tiny_shape(encoding="quadtree+rope3d")).loudness * torch.ones(1), torch.ones(1))
    with pytest.raises(UserError, match="'quadtree\\+quadtree': one of its parts stands there twice"):
        build(tiny_shape(encoding="quadtree+quadtree"))
    assert torch.equal(both.angles(coords), rope.angles(coords))
    assert build(tiny_shape(encoding="none+quadtree")).angles(coords) is None
    with pytest.raises(UserError, match="'rope\\+rope2d': only one of its parts may be rotary"):
        build(tiny_shape(encoding="rope+rope2d"))


@pytest.mark.parametrize("name", [*ENCODINGS, "quadtree+rope3d"])
def test_every_encoding_trains(run, tmp_path, name):
    metrics = run(encoding=name, log_every=1)
    assert metrics["step"] == 2 and 1 < metrics["loss"] < 4
    assert [line["step"] for line in records(tmp_path / "run", "train")] == [1, 2]


@pytest.mark.parametrize("wrong, near", [("quadtre", "quadtree"), ("one-hot", "onehot"), ("rope2", "rope2d"), ("", "")])
def test_unknown_encoding_names_the_nearest(wrong, near):
    with pytest.raises(UserError, match=f"no encoding '{wrong}'; did you mean {near}.*" + ", ".join(ENCODINGS)):
        build(tiny_shape(encoding=wrong))


MINE = '''"""Is the row odd?"""
from .base import Encoding


class Odd(Encoding):
    def setup(self, shape):
        self.dim = 1

    def features(self, coords):
        return (coords[..., 2:3] % 2).to(self.proj.weight.dtype)
'''


def test_a_new_encoding_is_a_file_and_an_entry_in_the_list(tmp_path):
    for folder in ("config", "data", "encodings"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("model.py", "train.py", "evaluate.py", "optim.py", "replay.py"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "encodings" / "odd.py").write_text(MINE)
    index = tmp_path / "encodings" / "index.py"
    text = index.read_text()
    index.write_text(text.replace("\n}\n", "\n    'odd': 'odd.Odd',\n}\n", 1))                   # one line
    done = subprocess.run([sys.executable, "train.py", *flags(**TINY, out_dir="run", encoding="odd")], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "encoding odd" in done.stdout and records(tmp_path / "run", "train")[-1]["step"] == 2
