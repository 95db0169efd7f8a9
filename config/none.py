# Purpose: the control without positions. Model and data are the defaults of config/__init__.py.
# Hardware: 2 CPU cores, @MINnone@ minutes. Score: @SCnone@
encoding = "none"
