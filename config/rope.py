# Purpose: rotary, along the index. Model and data are the defaults of config/__init__.py.
# Hardware: 2 CPU cores, @MINrope@ minutes. Score: @SCrope@
encoding = "rope"
