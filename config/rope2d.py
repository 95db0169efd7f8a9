# Purpose: rotary, along row and column. Model and data are the defaults of config/__init__.py.
# Hardware: 2 CPU cores, 5.5 minutes. Score: 85.3 % exact of 450 held-out generated tasks, one view, mean of 3 seeds
encoding = "rope2d"
