"""A 1 for the row and a 1 for the column: 2 x canvas numbers, 64 for ARC.

Every row and every column is learned on its own.
"""
from torch.nn.functional import one_hot

from .base import Encoding


class OneHot(Encoding):
    def setup(self, config):
        self.canvas = config.canvas
        self.dim = 2 * config.canvas

    def features(self, coords):
        return one_hot(coords[..., 2:], self.canvas).flatten(-2).float()
