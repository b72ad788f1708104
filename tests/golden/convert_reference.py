"""What the converter's full-width tests ask of the PyTorch reference (torch, mmseg 0.30).

python convert_reference.py init STEM LEGACY.pth ZIP.pth     a random checkpoint, in both forms
python convert_reference.py compare STEM ORIGINAL.pth EXPORTED.pth
"""

import sys

import torch
from make_convert import randomise, segmentor
from mmseg.models import build_segmentor


def init(stem, legacy, zipped):
    network = build_segmentor(segmentor(stem))
    randomise(network)
    classes = tuple(f"class {i}" for i in range(network.decode_head.num_classes))
    value = {"meta": {"CLASSES": classes, "iter": 1}, "state_dict": network.state_dict()}
    torch.save(value, legacy, _use_new_zipfile_serialization=False)
    torch.save(value, zipped)


def compare(stem, original, exported):
    """Strict loading, equal meta, equal bytes of every tensor, and the same logits."""
    network = build_segmentor(segmentor(stem)).eval()
    image = torch.rand(1, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    loaded, logits = [], []
    for path in (original, exported):
        loaded.append(torch.load(path, weights_only=True))
        network.load_state_dict(loaded[-1]["state_dict"], strict=True)
        with torch.no_grad():
            logits.append(network.encode_decode(image, [{}]))
    assert loaded[0]["meta"] == loaded[1]["meta"]
    before, after = (value["state_dict"] for value in loaded)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert (value.dtype, value.shape) == (after[key].dtype, after[key].shape), key
        assert value.numpy().tobytes() == after[key].numpy().tobytes(), key
    assert torch.isfinite(logits[0]).all() and torch.equal(*logits)


if __name__ == "__main__":
    {"init": init, "compare": compare}[sys.argv[1]](*sys.argv[2:])
