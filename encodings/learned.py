"""One learned vector for each index in the document, as in nanoGPT and GPT-2: blind to rows and columns."""
from torch import nn

from .base import Encoding


class Learned(Encoding):
    def setup(self, shape):
        self.table = nn.Embedding(shape.max_len, shape.n_embd)
        self.table.std = 1.0                                   # as loud as the others at the start

    def forward(self, coords):
        return self.table(coords[..., 0])       # the same as W times a one-hot vector of max_len numbers, without the zeros
