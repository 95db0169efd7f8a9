# Purpose: rotary, along segment (pair, input or output), row and column. Model and data are the
#   defaults of config/__init__.py.
# Hardware: 2 CPU cores, about 5 minutes. Score (trained on an H200): 88.3 % exact of 450
#   held-out generated tasks, one view, mean of 3 seeds
encoding = "rope3d"
