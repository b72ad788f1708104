"""What differs between the tensors a network needs and those a file has, and the likely reason."""

import re
from collections.abc import Iterable, Mapping

from nonlocal_jax.checkpoints.pytorch.pickle_names import printable
from nonlocal_jax.models.backbones.resnet import BLOCKS_PER_STAGE

Shape = tuple[int, ...]


def report(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> str | None:
    """Every difference between two sets of PyTorch keys with shapes, or None if there is none.

    The likely reason, where it is known, comes first, then the keys: missing, unexpected, and of
    another shape. Tensors of one module share a line.
    """
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    wrong = [key for key in expected if key in found and expected[key] != found[key]]
    if not (missing or unexpected or wrong):
        return None
    lines = [_reason(expected, found, wrong)]
    lines += _listed("missing in the file", missing)
    lines += _listed("unexpected in the file", unexpected)
    if wrong:
        lines.append(f"of another shape ({len(wrong)}):")
        lines += [f"  {key}: {found[key]} in the file, {expected[key]} needed" for key in wrong]
    return "\n".join(lines)


def _listed(title: str, keys: list[str]) -> list[str]:
    modules: dict[str, list[str]] = {}
    for key in keys:
        module, _, tensor = printable(key).rpartition(".")
        modules.setdefault(module, []).append(tensor)
    lines = [
        f"  {module}.{tensors[0]}" if len(tensors) == 1 else f"  {module}.{{{','.join(tensors)}}}"
        for module, tensors in modules.items()
    ]
    return [f"{title} ({len(keys)}):", *lines] if keys else []


def _reason(expected: Mapping[str, Shape], found: Mapping[str, Shape], wrong: list[str]) -> str:
    theirs, ours = _backbone(found), _backbone(expected)
    if theirs != ours:
        return f"the file's backbone is {theirs}, the config's is {ours}"
    classifiers = [key for key in wrong if ".conv_seg." in key]
    if classifiers:
        key = classifiers[0]
        return f"the file has {_first(found[key])} classes, the config {_first(expected[key])}"
    if wrong:
        return "the file's network has other widths than the config's"
    return "the file's network has other parts than the config's"


def _first(shape: Shape) -> int:
    return shape[0] if shape else 0


def _backbone(keys: Iterable[str]) -> str:
    """ "R-50 (V1c)", from the names of the tensors alone."""
    keys = list(keys)
    blocks = tuple(_count_blocks(keys, stage) for stage in (1, 2, 3, 4))
    bottleneck = any(".conv3." in key for key in keys)
    depths = [d for d, n in BLOCKS_PER_STAGE.items() if n == blocks and (d >= 50) == bottleneck]
    name = f"R-{depths[0]}" if depths else "no ResNet that is known"
    if not any("backbone.stem." in key for key in keys):
        return f"{name} without the deep stem"
    v1d = any(re.search(r"\.downsample\.2\.", key) for key in keys)
    return f"{name} ({'V1d' if v1d else 'V1c'})"


def _count_blocks(keys: Iterable[str], stage: int) -> int:
    pattern = re.compile(rf"backbone\.layer{stage}\.(\d{{1,4}})\.")
    return len({match[1] for key in keys if (match := pattern.match(key))})
