# Purpose: a 1 for the row and a 1 for the column, 64 numbers. Model and data are the defaults of config/__init__.py.
# Hardware: 2 CPU cores, @MINonehot@ minutes. Score: @SConehot@
encoding = "onehot"
