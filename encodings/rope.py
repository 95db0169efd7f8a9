"""Rotary positions (RoFormer, arXiv 2104.09864): attention sees differences of positions.

Queries and keys are rotated by angles that grow with the position: along the index (rope), row and
column (rope2d), or segment, row and column (rope3d). The pairs of numbers of a head are
shared out among these axes.
"""
import torch

from config import UserError
from .base import Encoding, frequency_angles


class Rope(Encoding):
    axes = (0,)                                # columns of coords
    shares = (4,)                              # quarters of a head for each of them
    base = 10000                               # 1 / the lowest frequency

    def setup(self, config):
        hs = config.n_embd // config.n_head
        if hs % 2:
            raise UserError("rotary encodings turn pairs of numbers, and n_embd / n_head = "
                            f"{hs} is odd")

    def angles(self, coords):
        counts = [int(self.rotary_pairs * share / 4) for share in self.shares]
        counts[-1] = self.rotary_pairs - sum(counts[:-1])
        angles = [frequency_angles(coords[..., axis], count, self.base)
                  for axis, count in zip(self.axes, counts)]
        return torch.cat(angles, -1)[..., None, :]


class Rope2D(Rope):
    axes = (2, 3)
    shares = (2, 2)
    base = 100                                 # sides: up to 30 in ARC, to 93 in oned_arc.py


class Rope3D(Rope):
    axes = (1, 2, 3)
    shares = (1, 1.5, 1.5)
    base = 100
