"""Import of published PyTorch checkpoints, and export to PyTorch."""
