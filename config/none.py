encoding = "none"
