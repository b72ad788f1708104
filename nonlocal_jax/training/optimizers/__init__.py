"""Optimisers, a file each."""
