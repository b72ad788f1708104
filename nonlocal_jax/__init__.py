"""NonLocalNet for semantic segmentation in JAX and Flax."""
