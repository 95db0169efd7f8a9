# Purpose: the form of arc1.py on a laptop: generated tasks, one pair a document, a learned
#   vector for each task; refine.py after it, with the same --holdout=0/4.
# Hardware: one CPU thread, 3.6 minutes. Score of 216 held-out tasks, 3 seeds: 87.7 % exact, one
#   view, 91.7 % pass@2.
train = "oned#600"
encoding = "rope3d"
demos = 0
task_embed = True
view_embed = True                              # one vector, as no task is turned here
oversample = 2.0
oned_eval = 12
max_steps = 1500
eval_every = 1500
views = 8
rerank_views = 8
