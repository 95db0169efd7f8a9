"""The encodings: worked cells, what rotation sees, and that a new one is a file and a line."""
import math
import shutil
import subprocess
import sys

import pytest
import torch

from config import UserError
from conftest import ROOT, TINY, flags, records, tiny_config
from model import GPT, apply_rotary, rotary_tables
from positions.index import ENCODINGS, build

ORIGIN = torch.zeros(1, 4, dtype=torch.long)


def named(name, **changes):
    return build(tiny_config(encoding=name, **changes))


def adds(name):
    """Returns whether an encoding adds something to the token's embedding."""
    return isinstance(named(name)(ORIGIN), torch.Tensor)


def turns(name):
    """Returns whether an encoding turns queries and keys."""
    return named(name).angles(ORIGIN) is not None


ADDING = [name for name in ENCODINGS if adds(name)]
ROTARY = [name for name in ENCODINGS if turns(name)]


def place(row, column, index=0, side=0):
    return torch.tensor([[index, side, row, column]])


def features(name, row, column, **changes):
    return named(name, **changes).features(place(row, column))[0]


@pytest.mark.parametrize("name", [*ADDING, "+".join(ADDING[:2] + ROTARY[:1]), "+".join(ADDING)])
def test_what_encodings_add_starts_at_the_same_size(name):
    """Root mean square 1 over the cells of a canvas; else a comparison would compare sizes."""
    torch.manual_seed(0)
    model = GPT(tiny_config(encoding=name, n_embd=256, n_head=2, n_kv_head=2, canvas=32,
                            max_len=1024))
    coords = torch.tensor([[i, 0, i // 32, i % 32] for i in range(1024)])
    assert abs(model.encoding(coords).square().mean().sqrt().item() - 1) < 0.15


# ------------------------------------------------------------------------------------------------
# What every encoding keeps to


@pytest.mark.parametrize("canvas", [8, 32, 128])
@pytest.mark.parametrize("name", ENCODINGS)
def test_features_and_angles_have_the_shapes_of_the_contract(name, canvas):
    encoding = named(name, canvas=canvas)
    last = place(canvas - 1, canvas - 1)
    if encoding.dim:
        assert encoding.features(last).shape == (1, encoding.dim)
    else:
        assert encoding.features(last) is None
    assert encoding(ORIGIN).shape == (1, 32) if name in ADDING else encoding(ORIGIN) == 0
    if name in ROTARY:
        _, heads, count = encoding.angles(last).shape
        assert heads in (1, 2)
        assert count == 32 / 2 / 2             # C / heads / 2


@pytest.mark.parametrize("name", ENCODINGS)
def test_one_token_a_step_gives_what_many_at_once_give(name):
    generator = torch.Generator().manual_seed(0)
    encoding, coords = named(name), torch.randint(0, 8, (20, 4), generator=generator)
    for part in (encoding, encoding.angles):
        whole = part(coords)
        if isinstance(whole, torch.Tensor):
            one_by_one = torch.cat([part(coords[i:i + 1]) for i in range(20)])
            assert torch.allclose(whole, one_by_one, atol=1e-6)


# ------------------------------------------------------------------------------------------------
# Worked cells


@pytest.mark.parametrize("row, column, digits", [
    (5, 0, "101 000"), (0, 5, "000 101"), (7, 4, "111 100"), (1, 2, "001 010")])
def test_quadtree_gives_the_binary_digits(row, column, digits):
    expected = [2.0 * int(digit) - 1 for digit in digits.replace(" ", "")]
    assert features("quadtree", row, column, canvas=8).tolist() == expected


def test_quadtree_neighbors_share_their_coarse_digits():
    whole = torch.stack([features("quadtree", row, 0, canvas=32) for row in range(32)])
    assert len(set(map(tuple, whole.tolist()))) == 32
    assert torch.equal(whole[16:, 0], torch.ones(16))
    assert torch.equal(whole[:16, 0], -torch.ones(16))


def test_onehot_sets_one_for_the_row_and_one_for_the_column():
    f = features("onehot", 5, 2, canvas=8)
    assert f.nonzero().flatten().tolist() == [5, 8 + 2]
    assert f.sum() == 2


def test_sinusoidal_values():
    f = features("sinusoidal", 3, 2, n_embd=8)                 # two frequencies: 1 and 1 / 100
    expected = []
    for x in (3, 2):
        expected += [math.sin(x), math.sin(x / 100), math.cos(x), math.cos(x / 100)]
    assert torch.allclose(f, torch.tensor(expected))


def test_learned_is_a_table_of_indices():
    encoding = named("learned", max_len=50)
    assert encoding.table.weight.shape == (50, 32)
    assert torch.equal(encoding(place(3, 4, index=9)), encoding.table.weight[9:10])


def test_none_adds_nothing():
    encoding = named("none")
    assert encoding.dim == 0
    assert encoding(place(1, 2)) == 0
    assert encoding.angles(place(1, 2)) is None
    assert not list(encoding.parameters())


DIMENSIONS = {                                 # canvas -> features, at C = 32
    "onehot": {8: 16, 32: 64, 128: 256},
    "quadtree": {8: 6, 32: 10, 128: 14},
    "sinusoidal": {8: 32, 32: 32, 128: 32},
}


@pytest.mark.parametrize("name", DIMENSIONS)
def test_dimensions_are_those_worked_out_by_hand(name):
    for canvas, dim in DIMENSIONS[name].items():
        assert named(name, canvas=canvas).dim == dim


# ------------------------------------------------------------------------------------------------
# Rotation


@pytest.mark.parametrize("name", ROTARY)
@pytest.mark.parametrize("hs", [2, 4, 6, 8, 12, 16, 32, 64])
def test_angles_of_every_head_size(name, hs):
    encoding = named(name, n_head=2, n_embd=2 * hs)
    assert encoding.angles(torch.zeros(5, 4, dtype=torch.long)).shape == (5, 1, hs // 2)
    first = encoding.angles(place(1, 1, index=1, side=1))[0, 0]
    # the fastest pair turns by one for each step
    assert first.max() == 1
    assert first.min() > 0


@pytest.mark.parametrize("name, pairs_of_axis", [
    ("rope", {0: 16}), ("rope2d", {2: 8, 3: 8}), ("rope3d", {1: 4, 2: 6, 3: 6})])
def test_angles_turn_along_their_axes_only(name, pairs_of_axis):
    encoding = named(name, n_head=1, n_embd=32)
    assert encoding.dim == 0
    for axis in range(4):
        step = ORIGIN.clone()
        step[0, axis] = 1
        angles = encoding.angles(step)
        assert bool(angles.any()) == (axis in pairs_of_axis)
        assert int((angles > 0).sum()) == pairs_of_axis.get(axis, 0)


@pytest.mark.parametrize("name", ROTARY)
def test_rotated_products_depend_on_differences_only(name):
    encoding, rng = named(name, n_head=1, n_embd=32), torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 32, generator=rng)
    a, b, shift = torch.randint(0, 20, (3, 1, 4), generator=rng)

    def turn(x, coords):
        return apply_rotary(x, rotary_tables(encoding.angles(coords)))

    def product(a, b):
        return (turn(q, a) * turn(k, b)).sum()
    assert torch.allclose(product(a, b), product(a + shift, b + shift), atol=1e-4)
    assert not torch.allclose(product(a, b), product(a + shift, b), atol=1e-2)
    assert torch.allclose(turn(q, a).norm(), q.norm())


# ------------------------------------------------------------------------------------------------
# By name


def test_two_encodings_are_their_sum_and_one_of_them_may_turn():
    torch.manual_seed(0)
    both, coords = named("quadtree+onehot+rope3d"), torch.randint(0, 8, (20, 4))
    quadtree, onehot, rope = both.parts
    assert torch.allclose(both(coords), (quadtree(coords) + onehot(coords)) / 2 ** 0.5)
    assert both(coords).any()
    assert both.dim == quadtree.dim + 16
    assert torch.equal(both.angles(coords), rope.angles(coords))
    assert named("none+quadtree").angles(coords) is None


@pytest.mark.parametrize("name, scale", [
    ("quadtree+rope3d", 1), ("none+quadtree", 1), ("quadtree+onehot", 2 ** -0.5)])
def test_what_several_add_starts_with_the_size_of_one(name, scale):
    assert named(name).scale == pytest.approx(scale)


@pytest.mark.parametrize("name, message", [
    ("quadtree+quadtree", "one of its parts stands there twice"),
    ("rope+rope2d", "only one of its parts may be rotary")])
def test_encodings_that_do_not_go_together_are_refused(name, message):
    with pytest.raises(UserError) as error:
        named(name)
    assert f"'{name}': {message}" in str(error.value)


@pytest.mark.parametrize("name", [*ENCODINGS, f"{ADDING[-1]}+{ROTARY[-1]}"])
def test_every_encoding_trains(run, tmp_path, name):
    metrics = run(encoding=name, log_every=1)
    assert metrics["step"] == 2
    assert 1 < metrics["loss"] < 4
    assert [line["step"] for line in records(tmp_path / "run", "train")] == [1, 2]


@pytest.mark.parametrize("wrong, near", [
    ("quadtre", "quadtree"), ("one-hot", "onehot"), ("rope2", "rope2d"), ("", "")])
def test_an_unknown_encoding_names_the_nearest(wrong, near):
    every = ", ".join(ENCODINGS)
    with pytest.raises(UserError, match=f"no encoding '{wrong}'; did you mean {near}.*{every}"):
        named(wrong)


MINE = '''"""Is the row odd?"""
from .base import Encoding


class Odd(Encoding):
    def setup(self, config):
        self.dim = 1

    def features(self, coords):
        return (coords[..., 2:3] % 2).to(self.proj.weight.dtype)
'''


def test_a_new_encoding_is_a_file_and_a_line_in_the_list(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("arc", "config", "encodings", "engine"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for file in ("model.py", "positions.py", "train.py"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "encodings" / "odd.py").write_text(MINE)
    index = tmp_path / "encodings" / "index.py"
    text = index.read_text()
    assert "\n}\n" in text
    index.write_text(text.replace("\n}\n", "\n    'odd': 'odd.Odd',\n}\n", 1))     # one line
    command = [sys.executable, "train.py", *flags(**TINY, out_dir="run", encoding="odd")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "encoding odd" in done.stdout
    assert records(tmp_path / "run", "train")[-1]["step"] == 2
