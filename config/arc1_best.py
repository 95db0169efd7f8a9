# Purpose: ARC-1 from scratch, the most that 30 minutes of one H100 give: arc1_rearc.py with more
#   clean rules, queries and keys of one length, and a longer run. The clean rules are ARC-2's
#   evaluation tasks and pairs of ARC-GEN's generators (results/arc_gen.py); give your paths.
# Hardware: one H100, 27.5 minutes in all. Score: 59.4, 58.1 and 58.5 % pass@2 of the 400 public
#   evaluation tasks with ConceptARC, seeds 1 to 3.
from config.arc1_rearc import *
train = "arc1:training+arc2:training+arc2:evaluation+re_arc/tasks@16+arc_gen.json@16"
oversample = 4.0                               # 27 % of the tokens instead of 8
qk_norm = True
dropout = 0.2
max_steps = 94000
warmup = 540 / max_steps                       # as in arc1.py
views = 32
samples = 32                                   # 1.7 points after 19,000 steps, results/arc1.md
