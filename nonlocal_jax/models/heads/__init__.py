"""Heads: from feature maps to logits, a file each."""
