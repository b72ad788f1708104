"""The TFDS builder of ade20k; `tfds build data/ade20k` finds it by its name."""
