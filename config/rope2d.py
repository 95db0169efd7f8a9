# Purpose: rotary, along row and column. Model and data are the defaults of config/__init__.py.
# Hardware: 2 CPU cores, @MINrope2d@ minutes. Score: @SCrope2d@
encoding = "rope2d"
