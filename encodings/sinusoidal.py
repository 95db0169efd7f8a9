"""Sines and cosines of row and column ("Attention Is All You Need", arXiv 1706.03762)."""
import torch

from .base import Encoding, frequency_angles


class Sinusoidal(Encoding):
    def setup(self, config):
        self.count = config.n_embd // 4        # frequencies an axis; sine and cosine, two axes: C
        self.dim = 4 * self.count

    def features(self, coords):
        angle = frequency_angles(coords[..., 2:], self.count, base=10000)      # (..., 2, count)
        return torch.cat([angle.sin(), angle.cos()], -1).flatten(-2)
