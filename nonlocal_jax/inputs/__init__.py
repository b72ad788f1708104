"""From files to batches, in NumPy and grain, without JAX."""
