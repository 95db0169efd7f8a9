"""The encodings by name: `encoding = "quadtree"` in a config.

Relative biases (ALiBi, T5) are not among them: flash attention over documents takes none. To add
an encoding: a line here, `"diagonal": "diagonal.Diagonal"`, and a file encodings/diagonal.py:

    from .base import Encoding

    class Diagonal(Encoding):
        def setup(self, config):
            self.dim = 1                       # numbers for each token

        def features(self, coords):            # (..., 4): index, segment, row, column
            return coords[..., 2:].sum(-1, keepdim=True).float()

    python train.py config/quadtree.py --encoding=diagonal --out_dir=out/diagonal
"""
import difflib
import importlib

from config import UserError
from .base import Together

ENCODINGS = {                                  # name: file.Class
    "none": "none.NoEncoding",
    "learned": "learned.Learned",
    "onehot": "onehot.OneHot",
    "table2d": "table2d.Table2D",
    "quadtree": "quadtree.Quadtree",
    "sinusoidal": "sinusoidal.Sinusoidal",
    "rope": "rope.Rope",
    "rope2d": "rope.Rope2D",
    "rope3d": "rope.Rope3D",
}


def build(config):
    """Returns the encoding of a model.ModelConfig; "quadtree+rope3d" is both."""
    parts = [find(name)(config) for name in config.encoding.split("+")]
    return parts[0] if len(parts) == 1 else Together(parts, config.encoding)


def find(name):
    """Returns the class of an encoding."""
    if name not in ENCODINGS:
        near = difflib.get_close_matches(name, ENCODINGS, 1, 0)[0]
        raise UserError(f"no encoding {name!r}; did you mean {near}? There are "
                        f"{', '.join(ENCODINGS)}; a+b is both")
    file, _, kind = ENCODINGS[name].partition(".")
    try:
        return getattr(importlib.import_module(f".{file}", __package__), kind)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(f"encoding {name!r} should be the class {kind} of encodings/{file}.py: "
                        f"{error}") from None
