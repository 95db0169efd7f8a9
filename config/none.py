# Purpose: the control without positions. Model and data are the defaults of config/__init__.py.
# Hardware: 2 CPU cores, 4.7 minutes. Score: 66.9 % exact of 450 held-out generated tasks, one view, mean of 3 seeds
encoding = "none"
