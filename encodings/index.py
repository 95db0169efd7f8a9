"""The encodings by name: `encoding = "quadtree"` in a config. To add yours: a file like quadtree.py and a line here."""
import difflib

from config import UserError
from .learned import Learned
from .none import NoEncoding
from .onehot import OneHot
from .quadtree import Quadtree
from .rope import Rope, Rope2D, Rope3D
from .sinusoidal import Sinusoidal

ENCODINGS = {
    "none": NoEncoding,
    "learned": Learned,
    "onehot": OneHot,
    "quadtree": Quadtree,
    "sinusoidal": Sinusoidal,
    "rope": Rope,
    "rope2d": Rope2D,
    "rope3d": Rope3D,
}


def build(shape):
    """The encoding named shape.encoding, for a network of that shape."""
    if shape.encoding not in ENCODINGS:
        near = difflib.get_close_matches(shape.encoding, ENCODINGS, 1, 0)[0]
        raise UserError(f"no encoding {shape.encoding!r}; did you mean {near}? There are {', '.join(ENCODINGS)}")
    return ENCODINGS[shape.encoding](shape)
