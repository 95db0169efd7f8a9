"""What an encoding is. The list of them, and how to add one: encodings/index.py."""
import torch
from torch import nn

from config import UserError


class Encoding(nn.Module):
    """Tells the network where a token is. A subclass gives features, or angles, or both.

    coords (..., 4) are integers: index in the document, pair index * 2 + input/output, row, column.
    Rows and columns are below canvas = 2^levels.
    features(coords) -> (..., dim) is joined to the token's embedding. To join and project is
        E[token] + W f, so this class owns W, `proj`, and forward(coords) -> (..., C) is what the
        model adds.
    angles(coords) -> None or (..., n_head or 1, hs / 2) turns queries and keys (RoFormer,
        arXiv 2104.09864).
    """
    dim = 0
    rms = 1.0                                  # of the features: `proj` makes 1 of it at the start

    def __init__(self, config):
        super().__init__()
        self.levels = config.canvas.bit_length() - 1
        self.rotary_pairs = config.n_embd // config.n_head // 2    # hs / 2, each can be turned
        self.setup(config)
        if self.dim:
            self.proj = nn.Linear(self.dim, config.n_embd, bias=False)
            self.proj.input_rms = self.rms

    def setup(self, config):
        """Sets self.dim, and whatever else depends on the network (model.ModelConfig)."""

    def features(self, coords):
        return None

    def forward(self, coords):
        return self.proj(self.features(coords)) if self.dim else 0

    def angles(self, coords):
        return None


class Together(nn.Module):
    """Several encodings at once. What they add is summed; at most one of them may be rotary."""

    def __init__(self, parts, name):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.dim = sum(part.dim for part in parts)
        origin = torch.zeros(1, 4, dtype=torch.long)
        adding = sum(isinstance(part(origin), torch.Tensor) for part in parts)
        self.scale = max(1, adding) ** -0.5    # several start with the size of one
        if len(set(name.split("+"))) < len(parts):
            raise UserError(f"encoding {name!r}: one of its parts stands there twice")
        if sum(part.angles(origin) is not None for part in parts) > 1:
            raise UserError(f"encoding {name!r}: only one of its parts may be rotary")

    def forward(self, coords):
        return self.scale * sum(part(coords) for part in self.parts)

    def angles(self, coords):
        for part in self.parts:
            angles = part.angles(coords)
            if angles is not None:
                return angles
        return None


def frequency_angles(position, count, base):
    """Returns the angles of positions (...) at `count` frequencies: (..., count).

    Frequencies fall geometrically from 1 radian a step to almost 1 / base (arXiv 1706.03762).
    """
    frequency = base ** (-torch.arange(count, device=position.device) / count)
    return position[..., None] * frequency
