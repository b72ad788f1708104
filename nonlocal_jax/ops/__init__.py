"""Pure functions on arrays: attention, convolution, resizing."""
