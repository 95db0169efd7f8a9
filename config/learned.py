# Purpose: a learned vector for each index, as in nanoGPT. Model and data are the defaults of config/__init__.py.
# Hardware: 2 CPU cores, @MINlearned@ minutes. Score: @SClearned@
encoding = "learned"
