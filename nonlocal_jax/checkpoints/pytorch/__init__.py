"""Published PyTorch checkpoints in, and ours back out."""
