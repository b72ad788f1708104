"""Clips of videos: decoding, sampling, augmentation, and the batches of a run."""
