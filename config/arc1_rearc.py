# Purpose: ARC-1 from scratch as in arc1_25min.py, a little longer, with pairs of the training
#   tasks drawn by re-ARC's generators. Unzip re_arc.zip of github.com/michaelhodel/re-arc here, or
#   give its path: --train=...+PATH/re_arc/tasks@16.
# Hardware: one H100, 23.7 minutes in all; two, 16.1. Score: 56.5 % pass@2 of the 400 public
#   evaluation tasks with ConceptARC, seed 1; 55.2 %, seed 2, on two GPUs.
from config.arc1_25min import *
train = "arc1:training+arc2:training+re_arc/tasks@16"
oversample = 3.0                               # 26 % of the tokens instead of 11 %
max_steps = 75000
warmup = 540 / max_steps                       # as in arc1.py
