"""The branches of a quadtree: 2 x log2(canvas) numbers, 10 for ARC where one-hot needs 64.

The canvas is halved again and again, for rows and for columns, and each number says on which side
the cell lies: the binary digits of row and column. Cells of one half, quarter or eighth share
digits, so what is learned for a region holds in all of it.
"""
import torch

from .base import Encoding


class Quadtree(Encoding):
    def setup(self, config):
        self.dim = 2 * self.levels

    def features(self, coords):
        level = torch.arange(self.levels - 1, -1, -1, device=coords.device)    # coarsest first
        bits = coords[..., 2:, None] >> level & 1                              # (..., 2, levels)
        return (2 * bits - 1).flatten(-2).float()                              # -1 and 1
