"""Convolution: a file for each algorithm. conv2d.py chooses by platform."""
