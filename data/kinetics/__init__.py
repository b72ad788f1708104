"""The TFDS builder of kinetics; `tfds build data/kinetics` finds it by its name."""
