"""No position at all: the control. Causal attention and `row` tokens remain."""
from .base import Encoding


class NoEncoding(Encoding):
    def angles(self, coords):
        return None                            # said here, as an encoding must have a method
