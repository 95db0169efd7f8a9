"""Sines and cosines of row and column (Attention Is All You Need, arXiv 1706.03762, once for each axis): smooth, fixed."""
import torch

from .base import Encoding, turns


class Sinusoidal(Encoding):
    def setup(self, shape):
        self.count = shape.n_embd // 4                         # speeds for each axis; sine and cosine, row and column: C numbers
        self.dim, self.rms = 4 * self.count, 0.5 ** 0.5

    def features(self, coords):
        angle = turns(coords[..., 2:], self.count, base=10000)                        # (..., 2, count)
        return torch.cat([angle.sin(), angle.cos()], -1).flatten(-2).to(self.proj.weight.dtype)
