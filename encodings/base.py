"""What an encoding is. The list of them, and how to add one: encodings/index.py."""
import torch
from torch import nn

from config import UserError


class Encoding(nn.Module):
    """Tells the network where a token is. A subclass gives features, a vector, angles, or several.

    coords (..., 4) are integers: index in the document, segment (pair index * 2 + input/output),
    row, column. Rows and columns are below canvas = 2^levels.
    features(coords) -> (..., dim): numbers that describe the position.
    vector(coords) -> (..., C): what is added to the token's embedding. As it stands here it is the
        features times a learned matrix, `proj`; one of tables, or of other layers, overrides it.
    angles(coords) -> None or (..., n_head or 1, hs / 2): by which queries and keys are rotated
        (RoFormer, arXiv 2104.09864).
    What is added starts with a root mean square of 1, whatever it is made of (zeros stay zeros):
    `scale_to_one`. A bare nn.Parameter starts as `setup` leaves it.
    """
    dim = 0

    def __init__(self, config):
        super().__init__()
        self.levels = config.canvas.bit_length() - 1
        self.width, self.n_head = config.n_embd, config.n_head
        self.rotary_pairs = config.n_embd // config.n_head // 2    # hs / 2, each can be turned
        # how many values each of the four coordinates has
        self.limits = config.max_len, 2 * config.n_pairs, config.canvas, config.canvas
        given = dict(vars(self))
        self.setup(config)
        taken = [name for name in given if vars(self).get(name) is not given[name]]
        taken += [name for name in ("scale", "proj") if hasattr(self, name)]
        if taken:
            self.refuse(f"self.{taken[0]} is this class's own: give yours another name")
        self.register_buffer("scale", torch.ones(()))      # of `vector`
        own = [name for name in ("features", "vector", "angles")
               if getattr(type(self), name) is not getattr(Encoding, name)]
        if not own:
            self.refuse("it needs a method `features`, `vector` or `angles`")
        if "features" in own and not self.dim:
            self.refuse("how many features? Set self.dim in `setup`")
        if self.dim:
            self.proj = nn.Linear(self.dim, config.n_embd, bias=False)

    def refuse(self, reason):
        raise UserError(f"encoding {type(self).__name__}: {reason}")

    def setup(self, config):
        """Sets self.dim, and whatever else depends on the network (model.ModelConfig).

        `__init__` has set what every encoding may use: see there. self.proj is made after it.
        """

    def features(self, coords):
        return None

    def vector(self, coords):
        return self.proj(self.features(coords)) if self.dim else None

    def angles(self, coords):
        return None

    def forward(self, coords):
        """Returns what the model adds to the token's embedding, (..., C) or 0."""
        vector = self.vector(coords)
        return 0 if vector is None else self.scale * vector

    @torch.no_grad()
    def scale_to_one(self):
        """Gives what is added a root mean square of 1 over the canvas. GPT.init calls it last.

        It is measured on 4096 random places. What the methods return there is checked.
        """
        if torch.get_default_device().type == "meta":      # shapes alone: nothing to measure
            return
        generator = torch.Generator().manual_seed(0)       # the network's own numbers stay
        coords = torch.randint(2**31, (4096, 4), generator=generator) % torch.tensor(self.limits)
        coords = torch.cat([coords, torch.zeros_like(coords[:1])])      # and the corner, to check
        angles = self.angles(coords)
        if angles is not None:
            heads = 1 if angles.ndim == 3 and angles.shape[1] == 1 else self.n_head
            self.check("angles", angles, heads, self.rotary_pairs)
        if type(self).vector is not Encoding.vector:
            vector = self.vector(coords)
            self.check("vector", vector, self.width)
            self.scale.fill_(1 / (root_mean_square(vector[:-1]) or 1))
        elif self.dim:                         # `proj` keeps the size of what it reads
            features = self.features(coords)
            self.check("features", features, self.dim)
            self.proj.weight.div_(root_mean_square(features[:-1]) or 1)

    def check(self, name, values, *sizes):
        """UserError where a method's values at 4097 places are no finite float32 (4097, *sizes)."""
        if values is None:
            self.refuse(f"its method `{name}` returns nothing")
        expected = (4097, *sizes)
        if values.shape != expected or values.dtype != torch.float32:
            self.refuse(f"{name} should be torch.float32 of shape {expected} here, and are "
                        f"{values.dtype} of {tuple(values.shape)}")
        if not values.isfinite().all():
            self.refuse(f"{name} are not finite everywhere on a canvas of {self.limits[2]}")


class Together(nn.Module):
    """Several encodings at once. What they add is summed; at most one of them may be rotary."""

    def __init__(self, parts, name):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.dim = sum(part.dim for part in parts)
        for part in parts:
            part.scale_to_one()                # which says what is wrong with one
        origin = torch.zeros(1, 4, dtype=torch.long)
        adding = sum(part.vector(origin) is not None for part in parts)
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


def root_mean_square(x):
    return x.float().square().mean().sqrt().item()


def frequency_angles(position, count, base):
    """Returns the angles of positions (...) at `count` frequencies: (..., count).

    Frequencies fall geometrically from 1 radian a step to almost 1 / base (arXiv 1706.03762).
    """
    frequency = base ** (-torch.arange(count, device=position.device) / count)
    return position[..., None] * frequency
