"""What any training run needs: batches, prediction, optimizers, checkpoints, devices."""
