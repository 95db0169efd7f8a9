encoding = "sinusoidal"
