"""The TFDS builder of camvid; `tfds build data/camvid` finds it by its name."""
