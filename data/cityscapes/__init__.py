"""The TFDS builder of cityscapes; `tfds build data/cityscapes` finds it by its name."""
