"""No position at all: the control. Causal attention and `row` tokens remain."""
from .base import Encoding


class NoEncoding(Encoding):
    pass
