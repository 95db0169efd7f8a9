encoding = "onehot"
