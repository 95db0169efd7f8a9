"""What an encoding is. The list of them, and how to add one: encodings/index.py."""
import torch
from torch import nn

from config import UserError


class Encoding(nn.Module):
    """Tells the network where a token is. A subclass gives features, or angles, or both.

    coords (..., 4): integers: index in the document, slot * 2 + plane, row, column; row and column are < frame = 2^levels.
    features(coords) -> (..., dim): joined to the token's embedding. Joining and projecting is E[token] + W f, so this class
        owns W, `proj`, and forward(coords) -> (..., C) is what the model adds to the token's embedding.
    angles(coords) -> None or (..., n_head or 1, hs / 2): by how much queries and keys are turned (RoFormer, arXiv 2104.09864).
    """
    dim = 0
    rms = 1.0                                                  # of the features; proj starts so that what is added has 1

    def __init__(self, shape):
        super().__init__()
        self.levels = shape.frame.bit_length() - 1
        self.pairs = shape.n_embd // shape.n_head // 2        # of numbers in a head, hs / 2: each can be turned
        self.setup(shape)
        if self.dim:
            self.proj = nn.Linear(self.dim, shape.n_embd, bias=False)
            self.proj.input_rms = self.rms

    def setup(self, shape):
        """Set self.dim, and whatever else depends on the shape of the network (model.Shape)."""

    def features(self, coords):
        return None

    def forward(self, coords):
        return self.proj(self.features(coords)) if self.dim else 0

    def angles(self, coords):
        return None


class Together(nn.Module):
    """Several encodings at once: what they add is summed, no louder than one; one of them at most may turn queries and keys."""

    def __init__(self, parts, name):
        super().__init__()
        self.parts, self.dim = nn.ModuleList(parts), sum(part.dim for part in parts)
        here = torch.zeros(1, 4, dtype=torch.long)
        self.loudness = max(1, sum(isinstance(part(here), torch.Tensor) for part in parts)) ** -0.5
        if len(set(name.split("+"))) < len(parts):
            raise UserError(f"encoding {name!r}: one of its parts stands there twice")
        if sum(part.angles(here) is not None for part in parts) > 1:
            raise UserError(f"encoding {name!r}: only one of its parts may be rotary")

    def forward(self, coords):
        return self.loudness * sum(part(coords) for part in self.parts)

    def angles(self, coords):
        return next((found for found in (part.angles(coords) for part in self.parts) if found is not None), None)


def turns(position, count, base):
    """Angles of a position at `count` speeds, from 1 per step down to almost 1 / base: (...) -> (..., count)."""
    speed = base ** (-torch.arange(count, device=position.device) / count)
    return position[..., None] * speed
