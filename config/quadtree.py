encoding = "quadtree"
batch_tokens = 1536
max_steps = 2200
learning_rate = 6e-3
