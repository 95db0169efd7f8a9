encoding = "rope3d"
