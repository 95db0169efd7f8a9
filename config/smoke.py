# Purpose: does everything run? A tiny network on generated tasks, from training to
#   submission.json.
# Hardware: any CPU, 10 s. Score: none to speak of (it does not learn anything in 60 steps).
n_layer = 2
n_embd = 32
n_mlp = 64
max_steps = 60
eval_every = 30
log_every = 15
oned_eval = 3
views = 2
