"""One learned vector for each row and one for each column, side by side: ViT's 2D positions.

Half of the channels tell the row, the other half the column (arXiv 2010.11929, appendix D.4). Added
up instead of side by side, two such tables would be `onehot`.
"""
import torch
from torch import nn

from .base import Encoding


class Table2D(Encoding):
    def setup(self, config):
        half = config.n_embd // 2
        self.rows = nn.Embedding(config.canvas, half)
        self.columns = nn.Embedding(config.canvas, config.n_embd - half)
        self.rows.initial_std = self.columns.initial_std = 1.0

    def vector(self, coords):
        return torch.cat([self.rows(coords[..., 2]), self.columns(coords[..., 3])], -1)
