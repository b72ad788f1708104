"""Loss and masks by their definitions, in float64 and with all scores at full resolution at once.

Nothing here is the package's but the type of its arguments: interpolation is `np.interp`.
"""

import numpy as np


def interpolation(source, target, align_corners, dtype=np.float64):
    """The matrix [target, source] that resizes an axis, as PyTorch defines it.

    PyTorch rounds positions to the dtype of what is resized.
    """
    index, dtype = np.arange(target, dtype=dtype), np.dtype(dtype).type
    if align_corners:
        positions = index * (dtype(source - 1) / dtype(max(target - 1, 1)))
    else:
        positions = (index + dtype(0.5)) * (dtype(source) / dtype(target)) - dtype(0.5)
    columns = [np.interp(positions, np.arange(source), unit) for unit in np.eye(source)]
    return np.stack(columns, axis=1)


def bilinear(x, size, align_corners):
    """[h, w, classes] at another size."""
    rows, columns = (interpolation(x.shape[i], size[i], align_corners) for i in (0, 1))
    return np.einsum("Hh,hwc,Ww->HWc", rows, np.asarray(x, np.float64), columns, optimize=True)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(logits, labels, align_corners):
    """Sum of losses, right and counted pixels, and the gradient of the sum."""
    to_rows, to_columns = (
        interpolation(logits.shape[i], labels.shape[i], align_corners, logits.dtype) for i in (1, 2)
    )
    scores = np.einsum("Hh,nhwc,Ww->nHWc", to_rows, logits.astype(np.float64), to_columns)
    counted = labels != 255
    one_hot = np.eye(256)[labels][..., : logits.shape[-1]]
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    total = exponentials.sum(-1)
    losses = np.log(total) + scores.max(-1) - (scores * one_hot).sum(-1)
    right = (scores.argmax(-1) == labels) & counted
    difference = (exponentials / total[..., None] - one_hot) * counted[..., None]
    gradient = np.einsum("Hh,nHWc,Ww->nhwc", to_rows, difference, to_columns)
    return losses[counted].sum(), right.sum(), counted.sum(), gradient


def probabilities(images, size, protocol, network):
    """What the published protocol says of one image, [h, w, classes].

    Args:
      images: the image at every scale, [h, w, channels].
      size: height and width of the result.
      protocol: whose windows, align_corners and flip count.
      network: from some image to logits [h / stride, w / stride, classes].
    """
    volumes = []
    for image in images:
        for mirrored in (False, True) if protocol.flip else (False,):
            logits = _sliding(image[:, ::-1] if mirrored else image, protocol, network)
            volume = softmax(bilinear(logits, size, protocol.align_corners))
            volumes.append(volume[:, ::-1] if mirrored else volume)
    return np.mean(volumes, axis=0)


def _sliding(image, protocol, network):
    """Logits at the resolution of the image: averaged over windows."""
    (height, width), windows = image.shape[:2], protocol.windows
    window, stride = ((height, width),) * 2 if windows is None else (windows.size, windows.stride)
    classes = network(image[:1, :1]).shape[-1]
    total, count = np.zeros((height, width, classes)), np.zeros((height, width, 1))
    for top in _starts(height, window[0], stride[0]):
        for left in _starts(width, window[1], stride[1]):
            place = slice(top, top + window[0]), slice(left, left + window[1])
            part = image[place]
            total[place] += bilinear(network(part), part.shape[:2], protocol.align_corners)
            count[place] += 1
    return total / count


def _starts(length, window, stride):
    found, start = [], 0
    while start + window < length:
        found.append(start)
        start += stride
    return [*found, max(length - window, 0)]
