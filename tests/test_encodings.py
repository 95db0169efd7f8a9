"""The encodings: their size at the start, worked cells, what rotation sees, names.

That a new one is a file and a line: tests/test_compare.py.
"""
import math

import pytest
import torch
from torch import nn

from config import UserError
from conftest import records, tiny_config
from model import GPT, apply_rotary, rotary_tables
from positions import index
from positions.base import Encoding
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


# ------------------------------------------------------------------------------------------------
# The size of what is added at the start, and what new encodings are made of

LARGE = dict(n_embd=256, n_head=2, n_kv_head=2, canvas=32, max_len=1024)


def random_coords(count=4096):
    generator = torch.Generator().manual_seed(1)
    limits = torch.tensor([LARGE["max_len"], 8, 32, 32])       # 4 pairs
    return torch.randint(2**31, (count, 4), generator=generator) % limits


def size(encoding):
    """Returns the root mean square of what is added over the canvas."""
    return encoding(random_coords()).square().mean().sqrt().item()


@pytest.mark.parametrize("name", [*ADDING, "+".join(ADDING[:2] + ROTARY[:1]), "+".join(ADDING)])
def test_what_encodings_add_starts_at_the_same_size(name):
    """Root mean square 1; else a comparison would compare sizes."""
    torch.manual_seed(0)
    assert size(GPT(tiny_config(encoding=name, **LARGE)).encoding) == pytest.approx(1, abs=0.15)


class Hundred(Encoding):
    """Features of size 100."""

    def setup(self, config):
        self.dim = 64

    def features(self, coords):
        steps = torch.arange(1.0, 65) / 7
        return 100 * 2**0.5 * (coords[..., 2:3] * steps + coords[..., 3:] * steps.flip(0)).sin()


class LearnedFeatures(Encoding):
    """Features that are learned themselves."""

    def setup(self, config):
        self.dim = 32
        self.table = nn.Embedding(config.canvas, 32)

    def features(self, coords):
        return self.table(coords[..., 2]) * 9


class Table(Encoding):
    def setup(self, config):
        self.table = nn.Embedding(config.canvas ** 2, config.n_embd)

    def vector(self, coords):
        return self.table(coords[..., 2] * 32 + coords[..., 3])


class Product(Encoding):
    """A bare parameter times a frozen table, which training leaves alone."""

    def setup(self, config):
        self.rows = nn.Parameter(torch.randn(config.canvas, config.n_embd))
        self.columns = nn.Embedding(config.canvas, config.n_embd).requires_grad_(False)

    def vector(self, coords):
        return self.rows[coords[..., 2]] * self.columns(coords[..., 3])


class SmallMLP(Encoding):
    """Also learned frequencies, which stand inside a sine, and angles of its own."""

    def setup(self, config):
        self.frequencies = nn.Parameter(torch.ones(2, 16))
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, config.n_embd))
        self.speeds = nn.Parameter(torch.ones(self.rotary_pairs))

    def vector(self, coords):
        return self.layers((coords[..., 2:].float() @ self.frequencies).sin())

    def angles(self, coords):
        return coords[..., 2:3, None] * self.speeds


def model_with(monkeypatch, kind, seed=0):
    monkeypatch.setattr(index, "find", lambda name: kind)
    torch.manual_seed(seed)
    return GPT(tiny_config(encoding="mine", **LARGE))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", [Hundred, LearnedFeatures, Table, Product, SmallMLP])
def test_whatever_a_new_encoding_is_made_of_it_starts_at_the_same_size(monkeypatch, kind, seed):
    """Nothing about its size is stated; and a checkpoint holds what was scaled."""
    model = model_with(monkeypatch, kind, seed)
    assert size(model.encoding) == pytest.approx(1, abs=0.05)
    other = model_with(monkeypatch, kind, seed + 10)
    coords = random_coords(9)
    assert not torch.equal(other.encoding(coords), model.encoding(coords))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.encoding(coords), model.encoding(coords))


def test_scaling_draws_no_random_numbers(monkeypatch):
    """So all other weights of a seed are the same, whatever the encoding is."""
    first = model_with(monkeypatch, Table)
    monkeypatch.setattr(Encoding, "scale_to_one", lambda self: None)
    second = model_with(monkeypatch, Table)
    assert torch.equal(first.head.weight, second.head.weight)
    assert torch.equal(first.encoding.table.weight, second.encoding.table.weight)
    assert first.encoding.scale.item() == pytest.approx(2, abs=0.05)   # `GPT.init` gives it 0.5


class Zero(Encoding):
    def setup(self, config):
        self.table = nn.Parameter(torch.zeros(config.canvas, config.n_embd))

    def vector(self, coords):
        return self.table[coords[..., 2]]


def test_zero_stays_zero(monkeypatch):
    assert not model_with(monkeypatch, Zero).encoding(random_coords(9)).any()


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


def test_table2d_looks_up_half_of_the_channels_by_row_and_half_by_column():
    encoding = named("table2d", canvas=8)
    row, column = encoding(place(3, 6))[0].chunk(2)
    assert torch.equal(row, encoding.rows.weight[3])
    assert torch.equal(column, encoding.columns.weight[6])
    assert encoding.rows.weight.shape == encoding.columns.weight.shape == (8, 16)
    assert named("table2d", n_embd=33, n_head=1)(place(0, 0)).shape == (1, 33)


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


ROPES = ["rope", "rope2d", "rope3d"]           # others may turn in another way


@pytest.mark.parametrize("name", ROPES)
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


@pytest.mark.parametrize("name", ROPES)
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


@pytest.mark.parametrize("name, value", [
    ("proj", nn.Linear(2, 64)), ("scale", 0.1), ("scale", nn.Parameter(torch.ones(4))),
    ("limits", (1, 2)), ("n_head", nn.Parameter(torch.ones(4)))])
def test_a_name_that_is_taken_is_refused(name, value):
    class Own(Encoding):
        def setup(self, config):
            self.dim = 2
            setattr(self, name, value)

        def features(self, coords):
            return coords[..., 2:].float()
    with pytest.raises(UserError, match=f"encoding Own: self.{name} is this class's own"):
        Own(tiny_config())


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
