"""A video backbone that compiles in a second, named "tiny_video.backbone" in a config."""
