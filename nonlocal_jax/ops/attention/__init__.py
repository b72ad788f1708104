"""Sums over all keys for every query, a file for each pairwise function and each platform."""
