"""The branches of a quadtree: halve the frame again and again, and note on which side the cell lies, for rows and for
columns: the binary digits of row and column, 2 x log2(frame) numbers (10 for ARC, where one-hot needs 64).

Cells of one half, one quarter, one eighth share digits, so what is learned for a region holds in all of it."""
import torch

from .base import Encoding


class Quadtree(Encoding):
    def setup(self, shape):
        self.dim = 2 * self.levels

    def features(self, coords):
        level = torch.arange(self.levels - 1, -1, -1, device=coords.device)           # the coarsest halving first
        bits = coords[..., 2:, None] >> level & 1                                     # (..., 2, levels)
        return (2 * bits - 1).flatten(-2).to(self.proj.weight.dtype)                  # -1 and 1: no digit is silent
