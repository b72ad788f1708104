"""Training: the loop, one step, the loss, and a run's folder."""
