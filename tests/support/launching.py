"""What the tests of the launch scripts share."""

from conftest import REPOSITORY

LAUNCH = REPOSITORY / "launch"
FLAGS = ("--config=configs/demo.py", "--config.data.crop_size=(64,512)")
SLICE = "--project=my-project --zone=us-west4-a"


def calls(tmp_path):
    """The calls of programs that the fixture `fake` made."""
    return (tmp_path / "calls").read_text().splitlines()
