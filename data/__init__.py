"""The data sets that `python -m nonlocal_jax.prepare NAME` makes, a TFDS builder each."""
