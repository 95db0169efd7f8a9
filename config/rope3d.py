# Purpose: rotary, along slot and plane, row and column. Model and data are the defaults of config/__init__.py.
# Hardware: 2 CPU cores, @MINrope3d@ minutes. Score: @SCrope3d@
encoding = "rope3d"
