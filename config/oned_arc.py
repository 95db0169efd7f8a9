# Purpose: infer a known family of 1D-ARC from three demonstrations, at full width; score it on
#   the benchmark, a clone of github.com/khalil-research/1D-ARC:
#   python train.py config/oned_arc.py --test=1D-ARC/dataset
# Hardware: one H200 (shared with other runs), 3.5 minutes. Score: all of 721 of its 901 tasks, one
#   view; so do quadtree, rope and rope2d, and onehot all but two (README). On a CPU: works,
#   slowly.
encoding = "rope3d"
oned_max_width = 93
oned_lift = 0.0
oned_eval = 20
max_answer = 96
n_layer = 8
n_embd = 256
n_head = 4
n_kv_head = 4
n_mlp = 768
batch_tokens = 16384
learning_rate = 4e-3
max_steps = 5000
eval_every = 1000
predict_tokens = 1000000
