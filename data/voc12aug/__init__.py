"""The TFDS builder of voc12aug; `tfds build data/voc12aug` finds it by its name."""
