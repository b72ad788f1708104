"""Brings published PyTorch checkpoints over, and ours back.

    python -m nonlocal_jax.convert --config=configs/ROW.py --output=DIR [--input=FILE.pth]
    python -m nonlocal_jax.convert --backbone=resnet50_v1c --output=checkpoints/resnet50_v1c
    python -m nonlocal_jax.convert --config=configs/ROW.py --input=DIR --output=FILE.pth --export

Without `--input`, an import downloads the row's published file.
"""

from absl import flags

from nonlocal_jax.checkpoints.pytorch import command
from nonlocal_jax.config import command_line
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.network import build_network

_INPUT = flags.DEFINE_string("input", "", "What to convert; by default the published file.")
_OUTPUT = flags.DEFINE_string(
    "output", "", "The checkpoint folder, or with --export the .pth file."
)
_BACKBONE = flags.DEFINE_string("backbone", "", "Import ImageNet weights, e.g. resnet50_v1c.")
_EXPORT = flags.DEFINE_bool("export", False, "Write a checkpoint of ours for PyTorch.")
_LEGACY = flags.DEFINE_bool("legacy", False, "Export in the form before PyTorch 1.6.")
_ALLOW_NAN = flags.DEFINE_bool("allow_nan", False, "Import weights that are NaN or infinite, too.")


def main() -> None:
    """Converts as the flags say."""
    if _EXPORT.value and _BACKBONE.value:
        raise UserError("--export writes whole networks: give --config instead of --backbone.")
    output = command.new_path(_OUTPUT.value)
    if _BACKBONE.value:
        target = command.backbone_target(_BACKBONE.value)
    else:
        target = _config_target()
    if _EXPORT.value:
        command.export(target, _INPUT.value, output, legacy=_LEGACY.value)
    else:
        command.import_(target, _INPUT.value, output, allow_nan=_ALLOW_NAN.value)


def _config_target() -> command.Target:
    config, name = command_line.config(), command_line.config_name()
    network = build_network(config.model)
    shapes = {key: leaf.shape for key, leaf in network.shapes.items()}
    url = config.published.get("url", "")
    model = config.model.to_dict()
    return command.Target(name, "segmentor", network.torch_keys, shapes, url, model)


if __name__ == "__main__":
    command_line.run(main, needs_config=False)  # a backbone has none
