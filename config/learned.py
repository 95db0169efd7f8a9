encoding = "learned"
