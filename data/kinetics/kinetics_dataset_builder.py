"""The TFDS builder of Kinetics-400: videos of ten seconds, 400 human actions.

    nonlocal-jax prepare kinetics --source=DIR
    tfds build data/kinetics --manual_dir=DIR --data_dir=data

DIR holds the lists train.txt and val.txt with a line `path label` for each video, or the folders
train/CLASS and val/CLASS.
"""

from nonlocal_jax.inputs.preparation.video_builder import VideoBuilder


class Builder(VideoBuilder):
    """Human actions, 400 classes."""

    USUAL_SOURCE = "data/kinetics"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
        Kinetics-400 consists of videos on YouTube; a copy is at
        https://github.com/cvdfoundation/kinetics-dataset. Put the videos into train/CLASS and
        val/CLASS, or list them in train.txt and val.txt.
    """
