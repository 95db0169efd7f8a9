"""No position at all: the control. Causal attention and `row` tokens remain."""
from .base import Encoding


class NoEncoding(Encoding):
    def angles(self, coords):
        return None                            # as in Encoding, which wants one of its methods
