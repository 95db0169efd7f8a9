encoding = "rope2d"
