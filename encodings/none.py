"""No position at all: the control. What is left is what causal attention and `row` tokens tell."""
from .base import Encoding


class NoEncoding(Encoding):
    pass
