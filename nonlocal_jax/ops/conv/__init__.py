"""Convolution, a file for each way to compute it; conv2d.py chooses by platform."""
