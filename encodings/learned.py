"""One learned vector for each index in the document, as in GPT-2: blind to rows and columns."""
from torch import nn

from .base import Encoding


class Learned(Encoding):
    def setup(self, config):
        self.table = nn.Embedding(config.max_len, config.n_embd)
        self.table.initial_std = 1.0

    def vector(self, coords):
        # the same as W times a one-hot vector of max_len numbers, without the zeros
        return self.table(coords[..., 0])
