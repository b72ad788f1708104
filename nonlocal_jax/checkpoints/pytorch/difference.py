"""Differences between the tensors that a network needs and those of a file, and why."""

from collections.abc import Iterable, Mapping

from nonlocal_jax.checkpoints.pytorch.pickle_names import printable
from nonlocal_jax.models.torch_keys import TorchKeys

Shape = tuple[int, ...]


def report(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], keys: TorchKeys
) -> str | None:
    """Every difference between two sets of PyTorch keys with shapes, or None if there is none.

    The likely reason, where it is known, comes first, then the keys: missing, unexpected, and of
    another shape. Tensors of one module share a line.
    """
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    wrong = [key for key in expected if key in found and expected[key] != found[key]]
    if not (missing or unexpected or wrong):
        return None
    lines = [_reason(expected, found, wrong, keys)]
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


def _reason(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], wrong: list[str], keys: TorchKeys
) -> str:
    theirs, ours = (keys.describe(_of_backbone(names)) for names in (found, expected))
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


def _of_backbone(keys: Iterable[str]) -> list[str]:
    return [key.removeprefix("backbone.") for key in keys if key.startswith("backbone.")]
