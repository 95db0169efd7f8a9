# Purpose: TinyLlama-1.1B's exact shape (arXiv 2401.02385: 22 layers x 2048, 32 heads, 4 KV
#   heads, MLP 5632) on ARC; with 14 tokens instead of 32,000 its matrices hold 0.97B
#   parameters. --init_from=FOLDER starts from TinyLlama's own blocks, once
#   `huggingface-cli download NAME --local-dir=FOLDER` (not tried) has fetched them.
# Hardware: one GPU of 80 GB: a step of 65,536 tokens takes 1.05 to 1.10 s on an H100, 47 GiB
#   at most; `recompute` takes less. Score: after 10.4 minutes (--max_steps=545 --warmup=0.1)
#   none of 105 held-out queries is right; see results/arc1.md.
from config.tinyllama_arc import *
n_layer = 22
n_embd = 2048
n_head = 32
n_kv_head = 4
n_mlp = 5632
learning_rate = 4e-4
batch_tokens = 65536
micro_tokens = 16384
max_steps = 3000
eval_every = 500
