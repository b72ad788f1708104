"""Backbones: from images to feature maps, a file each."""
