# Purpose: ARC-1 from scratch as in arc1.py, for longer. Schedule-free needs no end set in advance: the first 20,000 steps are that run.
# Hardware: one H100 or H200. Score: not measured yet.
from config.arc1 import *
from config.arc1 import max_steps as _short, warmup as _warmup
max_steps = 110000
warmup = _warmup * _short / max_steps                          # as many steps
eval_every = 10000
views = 80
