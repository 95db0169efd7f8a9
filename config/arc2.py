# Purpose: ARC-2 from scratch, as arc1_best.py, with all of ARC-1 to learn from. Training tasks that
#   ARC-2's evaluation set repeats are dropped by the leak guard. Give your paths of re-ARC and
#   ARC-GEN, and ConceptARC's.
# Hardware: one H200, 25 minutes in all; on an H100 about 27, estimated. Score: 12.5, 10.8 and
#   10.1 % pass@2 of the 120 public evaluation tasks with ConceptARC, seeds 1 to 3: 11.2 on average.
from config.arc1_best import *
train = "arc1:training+arc2:training+arc1:evaluation+re_arc/tasks@16+arc_gen.json@16"
test = "arc2:evaluation"
oversample = 11.0                              # 25 % of the tokens instead of 3
