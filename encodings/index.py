"""The encodings by name: `encoding = "quadtree"` in a config. To add yours: a file like quadtree.py, and a line here."""
import difflib
import importlib

from config import UserError
from .base import Together

ENCODINGS = {                                                  # name: file.Class
    "none": "none.NoEncoding",
    "learned": "learned.Learned",
    "onehot": "onehot.OneHot",
    "quadtree": "quadtree.Quadtree",
    "sinusoidal": "sinusoidal.Sinusoidal",
    "rope": "rope.Rope",
    "rope2d": "rope.Rope2D",
    "rope3d": "rope.Rope3D",
}


def build(shape):
    """The encoding named shape.encoding, for a network of that shape; "quadtree+rope3d" is both."""
    parts = [find(name)(shape) for name in shape.encoding.split("+")]
    return parts[0] if len(parts) == 1 else Together(parts, shape.encoding)


def find(name):
    """The class of an encoding."""
    if name not in ENCODINGS:
        near = difflib.get_close_matches(name, ENCODINGS, 1, 0)[0]
        raise UserError(f"no encoding {name!r}; did you mean {near}? There are {', '.join(ENCODINGS)}; a+b is both")
    file, _, kind = ENCODINGS[name].partition(".")
    return getattr(importlib.import_module(f".{file}", __package__), kind)
