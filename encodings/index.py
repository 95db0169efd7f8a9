"""The encodings by name: `encoding = "quadtree"` in a config. To add yours: a file like quadtree.py, and a line here."""
import difflib
import importlib

from config import UserError

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
    """The encoding named shape.encoding, for a network of that shape."""
    if shape.encoding not in ENCODINGS:
        near = difflib.get_close_matches(shape.encoding, ENCODINGS, 1, 0)[0]
        raise UserError(f"no encoding {shape.encoding!r}; did you mean {near}? There are {', '.join(ENCODINGS)}")
    file, _, name = ENCODINGS[shape.encoding].partition(".")
    return getattr(importlib.import_module(f".{file}", __package__), name)(shape)
