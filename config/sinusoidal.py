# Purpose: sines and cosines of row and column. Model and data are the defaults of config/__init__.py.
# Hardware: 2 CPU cores, @MINsinusoidal@ minutes. Score: @SCsinusoidal@
encoding = "sinusoidal"
