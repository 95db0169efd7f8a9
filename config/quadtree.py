encoding = "quadtree"
