"""Sums over all keys for each query: a file for each pairwise function and each platform."""
