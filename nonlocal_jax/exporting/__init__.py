"""Trained networks for other runtimes: a file each, checked against JAX before it is written."""
