"""A file for each config; nonlocal_jax.config.common holds what they share."""
