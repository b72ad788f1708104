"""Checkpoints: a run's, single ones, and PyTorch files."""
