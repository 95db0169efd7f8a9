# Purpose: the reference: binary digits of row and column. Model and data are the defaults of config/__init__.py.
# Hardware: 2 CPU cores, @MINquadtree@ minutes. Score: @SCquadtree@
encoding = "quadtree"
