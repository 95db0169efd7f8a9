# Purpose: ARC-1 from scratch as in arc1.py, with a wider network, a longer run and more views.
# Hardware: one H200, 23.4 minutes in all; other runs shared it for the first 18 (alone about
#   18.5 in all, computed).
# Score: 47.6 % pass@2 of the 400 public evaluation tasks, one seed, with ConceptARC.
from config.arc1 import *
n_embd = 512
n_head = 8
n_kv_head = 8
n_mlp = 2048
max_steps = 66000
warmup = 540 / max_steps                       # as in arc1.py
eval_every = 10000
views = 80
log_every = 500                                # 8 seconds
