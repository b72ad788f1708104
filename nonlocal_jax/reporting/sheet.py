"""A contact sheet of what the network is trained on."""

import numpy as np

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.reporting import pictures

TILE = 320  # pixels, the longer side of a picture on the sheet
_PADDING = 128  # grey level where there is no image


def contact_sheet(inputs: Inputs, count: int) -> pictures.Picture:
    """The run's first `count` augmented examples, with and without masks, and the legend.

    Raises:
      UserError: the data set is not there, or an example is bad.
    """
    dataset, examples = inputs.dataset, inputs.train_examples()
    tiles, tinted, labels = [], [], []
    for index in range(count):
        example = examples[index]
        image, label = example["image"], example["label"]
        height, width = example["size"]
        image[height:], image[:, width:] = _PADDING, _PADDING
        masked = pictures.overlay(image, label, dataset.palette)
        tinted.append(masked)
        labels.append(label)
        pair = np.concatenate([image, masked], axis=1)
        tiles.append(pictures.shrink(pair, 2 * TILE))
    sheet = pictures.grid(tiles, columns=2 if count > 2 else 1)
    shown = np.setdiff1d(np.concatenate([np.unique(label) for label in labels]), [IGNORED])
    names = [dataset.class_names[label] for label in shown]
    colours = pictures.drawn_colours(tinted, labels, shown)
    return pictures.stack([sheet, pictures.legend(names, colours, sheet.shape[1])])
