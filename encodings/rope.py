"""Rotary positions (RoFormer, arXiv 2104.09864): queries and keys are turned by angles that grow with the position, so
that attention sees differences of positions. Along the index (rope), row and column (rope2d), or slot and plane, row and
column (rope3d); the pairs of numbers of a head are shared out among the axes."""
import torch

from config import UserError
from .base import Encoding, turns


class Rope(Encoding):
    axes, shares, base = (0,), (4,), 10000                     # coordinates used, their quarters of a head, slowest speed

    def setup(self, shape):
        if shape.n_embd // shape.n_head % 2:
            raise UserError(f"rotary encodings turn pairs of numbers, and n_embd / n_head = {shape.n_embd // shape.n_head} is odd")

    def angles(self, coords):
        counts = [int(self.pairs * share / 4) for share in self.shares]
        counts[-1] = self.pairs - sum(counts[:-1])
        return torch.cat([turns(coords[..., axis], count, self.base)
                          for axis, count in zip(self.axes, counts)], -1)[..., None, :]


class Rope2D(Rope):
    axes, shares, base = (2, 3), (2, 2), 100                   # a grid is no longer than 30 to 93 cells: 100 turns all pairs


class Rope3D(Rope):
    axes, shares, base = (1, 2, 3), (1, 1.5, 1.5), 100
