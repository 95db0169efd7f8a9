# Purpose: ARC-1 from scratch as in arc1.py, twice as long, with more views. Schedule-free needs
#   no end set in advance: the first 20,000 steps are that run.
# Hardware: one H100, 11.2 minutes in all. Score: 42.9 % pass@2 of the 400 public evaluation
#   tasks, one seed, with ConceptARC.
from config.arc1 import *
max_steps = 40000
warmup = 540 / max_steps                       # as in arc1.py
eval_every = 10000
views = 80
