encoding = "rope"
