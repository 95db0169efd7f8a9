"""The folder encodings/ under a name that can be imported.

Python itself has a package `encodings` (its text codecs), loaded before any program starts, so that
name is taken. A module with a `__path__` is a package: `from positions.index import build` reads
encodings/index.py. For the same reason encodings/ holds no __init__.py: with PYTHONPATH=. Python
would take the folder for its codecs, and not start.
"""
from pathlib import Path

__path__ = [str(Path(__file__).with_name("encodings"))]
