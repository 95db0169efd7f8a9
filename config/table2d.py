# Purpose: a learned vector for the row and one for the column, half of the channels each (ViT).
#   Model and data are the defaults of config/__init__.py.
# Hardware: 2 CPU cores, not timed. Score (trained on one CPU thread): 78.3 % exact of 450
#   held-out generated tasks, one view, mean of 3 seeds
encoding = "table2d"
