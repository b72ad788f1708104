"""Generated scenes in which the class of a shape depends on a lamp that is far away.

A lamp shines in one of four colours at one end of a wide image; grey shapes lie at the other end.
The lamp's colour is its class (red is "stop"), and the class of every shape in the scene. Lamp and
shapes are at least `GAP` pixels apart. A network with a smaller receptive field can find the shapes
but has to guess their class. A network that compares all positions can know it.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from nonlocal_jax.config import schema
from nonlocal_jax.inputs.datasets.dataset import SPLITS, Dataset
from nonlocal_jax.inputs.example import Example

HEIGHT, WIDTH = 64, 512
COUNTS = {"train": 4000, "val": 160}

CLASS_NAMES = ("background", "stop", "wait", "go", "turn")
LAMP_COLOURS = np.array([[240, 10, 10], [250, 230, 10], [10, 220, 20], [10, 30, 250]], np.uint8)
PALETTE = np.concatenate([np.full((1, 3), 40, np.uint8), LAMP_COLOURS])

# Half of the receptive field of ResNet-18-D8 with an FCN head is 180 pixels, and the upsampling of
# its logits adds up to 12.
GAP = 208
LAMP_COLUMNS = 88  # the lamp lies left of here, before the scene is mirrored or not
SLOTS = 4
SLOT_WIDTH = (WIDTH - LAMP_COLUMNS - GAP) // SLOTS

Scene = tuple[UInt8[np.ndarray, "64 512 3"], UInt8[np.ndarray, "64 512"]]
Mask = Bool[np.ndarray, "64 512"]

_ROWS = np.arange(HEIGHT, dtype=np.float32)[:, None]
_COLUMNS = np.arange(WIDTH, dtype=np.float32)[None, :]
_DISTANCES: tuple[Callable[..., Float[np.ndarray, "64 512"]], ...] = (
    np.hypot,  # disc
    np.maximum,  # square
    lambda y, x: y + x,  # diamond
    lambda y, x: np.maximum(y, 2 * x),  # upright bar
)


def build(data: schema.Data, data_dir: str) -> Dataset:
    """The data set, which has no files."""
    return Dataset(
        name="scenes",
        class_names=CLASS_NAMES,
        palette=PALETTE,
        counts=COUNTS,
        generate=SceneSource,
    )


class SceneSource:
    """The scenes of a split, "train" or "val"; see `make_scene`."""

    def __init__(self, split: str):
        self._split = split

    def __len__(self) -> int:
        return COUNTS[self._split]

    def __getitem__(self, index: int) -> Example:
        return Example(*make_scene(self._split, index), self.name(index))

    def name(self, index: int) -> str:
        """The split and the number of a scene."""
        return f"{self._split}_{index}"

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width, the same for all."""
        return HEIGHT, WIDTH


def make_scene(split: str, index: int) -> Scene:
    """The image and the labels of a scene. The same index always gives the same scene.

    Args:
      split: "train" or "val": they share no scene.
      index: of the scene, 0 or more.
    """
    rng = np.random.default_rng([SPLITS.index(split), index])
    colour = rng.integers(len(LAMP_COLOURS))
    tint = rng.uniform(100, 140) + rng.uniform(-8, 8, 3).astype(np.float32)
    image = tint + _waves(rng, 12.0)
    label = np.zeros((HEIGHT, WIDTH), np.uint8)

    lamp = _lamp(rng)
    image[lamp] = LAMP_COLOURS[colour] * rng.uniform(0.85, 1.05)
    label[lamp] = 1 + colour
    for slot in rng.choice(SLOTS, size=rng.integers(2, SLOTS + 1), replace=False).tolist():
        shape = _shape(rng, slot)
        grey = tint.mean() + rng.uniform(45, 70) * rng.choice([-1, 1])
        image[shape] = grey + _waves(rng, rng.uniform(0, 25))[shape]
        label[shape] = 1 + colour

    image += _grain(rng)
    if rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    return np.clip(image, 0, 255).astype(np.uint8), np.ascontiguousarray(label)


def lamp_mask(image: UInt8[np.ndarray, "h w 3"], label: UInt8[np.ndarray, "h w"]) -> Mask:
    """The pixels of the lamp: among the pixels with a class, only these have a colour."""
    lamp: Mask = (label > 0) & (np.ptp(image, axis=-1) > 0)
    return lamp


def _waves(rng: np.random.Generator, height: float) -> Float[np.ndarray, "64 512 1"]:
    """Brightness between -`height` and `height`, in waves of a random direction and length."""
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(8, 60), rng.uniform(0, 2 * np.pi)
    along = _ROWS * np.float32(np.sin(angle)) + _COLUMNS * np.float32(np.cos(angle))
    wave = np.sin(along * np.float32(2 * np.pi / period) + np.float32(phase))
    waves: Float[np.ndarray, "64 512 1"] = np.float32(height) * wave[..., None]
    return waves


def _grain(rng: np.random.Generator) -> Float[np.ndarray, "64 512 1"]:
    """Noise between -16 and 15."""
    grain = np.frombuffer(rng.bytes(HEIGHT * WIDTH), np.uint8) >> 3
    return grain.reshape(HEIGHT, WIDTH, 1).astype(np.float32) - 16


def _lamp(rng: np.random.Generator) -> Mask:
    """The lamp's pixels."""
    radius = rng.uniform(18, 25)
    row = rng.uniform(radius, HEIGHT - radius)
    column = rng.uniform(radius, LAMP_COLUMNS - 1 - radius)
    lamp: Mask = np.hypot(_ROWS - row, _COLUMNS - column) <= radius
    return lamp


def _shape(rng: np.random.Generator, slot: int) -> Mask:
    """The pixels of a disc, square, diamond or bar inside one of the slots at the other end."""
    radius = rng.uniform(17, 23)
    row = rng.uniform(radius, HEIGHT - radius)
    left = LAMP_COLUMNS + GAP + slot * SLOT_WIDTH
    column = rng.uniform(left + radius, left + SLOT_WIDTH - 1 - radius)
    distance = _DISTANCES[rng.integers(len(_DISTANCES))]
    return distance(np.abs(_ROWS - row), np.abs(_COLUMNS - column)) <= radius
