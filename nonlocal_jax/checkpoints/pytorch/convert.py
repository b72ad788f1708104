"""Converts PyTorch files to checkpoints and back. Results are verified, and written atomically."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flax import nnx

from nonlocal_jax.checkpoints import compare, conversion, locate, model
from nonlocal_jax.checkpoints.finite import not_finite
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.pytorch import download, torch_file
from nonlocal_jax.checkpoints.pytorch.exporter import export_checkpoint
from nonlocal_jax.checkpoints.pytorch.importer import ImportResult, import_checkpoint
from nonlocal_jax.checkpoints.pytorch.pickle_names import printable
from nonlocal_jax.config.schema import Config
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.backbones.resnet import Options, ResNet
from nonlocal_jax.models.backbones.resnet_keys import BLOCKS_PER_STAGE, settings_of
from nonlocal_jax.models.functional import flat_variables
from nonlocal_jax.models.network import build_network
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import TorchKeys, under


@dataclass(frozen=True)
class Target:
    """The network of a conversion.

    Attributes:
      name: name of the config ("ade20k_r50_80k") or of the backbone ("resnet50_v1c").
      kind: kind of checkpoint.
      keys: names of its layers in PyTorch files.
      shapes: shapes of its variables, by name.
      url: address of the published file; empty if there is none.
      config: its config; None for a backbone.
    """

    name: str
    kind: Literal["segmentor", "backbone"]
    keys: TorchKeys
    shapes: Mapping[str, tuple[int, ...]]
    url: str = ""
    config: Config | None = None


def config_target(config: Config, name: str) -> Target:
    """The network of a config.

    Args:
      config: its own.
      name: of the config.
    """
    network = build_network(config.model)
    shapes = {key: leaf.shape for key, leaf in network.shapes.items()}
    return Target(name, "segmentor", network.torch_keys, shapes, config.published.url, config)


def backbone_target(name: str) -> Target:
    """The backbone of a name like "resnet50_v1c".

    Raises:
      UserError: there is no such backbone.
    """
    settings = settings_of(name)
    if not settings:
        raise UserError(
            f"--backbone={name} is not known; give resnetDEPTH_VARIANT, e.g. resnet50_v1c, with a "
            f"depth of {', '.join(map(str, BLOCKS_PER_STAGE))} and v1, v1c or v1d, and _caffe "
            "behind it if the first convolution of a bottleneck has the stride."
        )
    options = Options(**settings)
    backbone = nnx.eval_shape(lambda: ResNet(options, Numerics(rngs=nnx.Rngs(0))))
    keys = backbone.torch_keys
    keys = replace(keys, rows=under("backbone", "backbone", keys.rows))
    shapes = {f"backbone/{key}": leaf.shape for key, leaf in flat_variables(backbone).items()}
    return Target(name, "backbone", keys, shapes, download.BACKBONES.get(name, ""))


def import_(target: Target, source: str, output: Path, *, allow_nan: bool = False) -> None:
    """Writes the checkpoint folder `output` from a PyTorch file, and prints what it holds.

    Args:
      target: the network that the file must fit exactly.
      source: the file; if empty, the published one is downloaded.
      output: a folder that does not exist yet.
      allow_nan: accept values that are NaN or infinite.

    Raises:
      UserError: the file is missing, damaged, unsafe, or of another network. Then nothing is left
        at `output`.
    """
    file = Path(source) if source else _published(target)
    digest = torch_file.sha256(file)
    download.check_hash(file)
    tree = torch_file.read(file)
    try:
        result = import_checkpoint(
            tree, target.shapes, keys=target.keys, backbone=target.kind == "backbone"
        )
    except UserError as error:
        raise UserError(f"{file} does not fit {target.name}: {error}") from error
    conversion.check_finite(file, result.not_finite, allow_nan)
    metadata = Metadata(
        kind=target.kind,
        config=target.config,
        network=target.name,
        source={"file": file.name, "sha256": digest},
        meta=result.meta,
        counters=result.counters,
    )
    conversion.save_verified(output, result.variables, metadata)
    print(_summary(file, digest, result))
    print(f"Written to {output} and read back: every value is the file's.")


def export(
    found: locate.Found,
    config: Config,
    output: Path,
    *,
    departing: Collection[str] = (),
    legacy: bool = False,
    allow_nan: bool = False,
) -> None:
    """Writes the PyTorch file `output` from a checkpoint of ours, and prints what it holds.

    Args:
      found: the checkpoint.
      config: its own, or another one whose network is the same.
      output: a file that does not exist yet.
      departing: dotted keys of the config that were given another value on purpose.
      legacy: write the form before PyTorch 1.6.
      allow_nan: accept values that are NaN or infinite.

    Raises:
      UserError: the checkpoint is damaged, is of another network, or holds values that are not
        finite. Then nothing is left at `output`.
    """
    variables, metadata = model.load_found(found)
    target = config_target(config, metadata.network)
    settings = compare.meaning(metadata, config.model)
    compare.refuse(found, [settings[key] for key in settings if key not in departing], [])
    try:
        tree = export_checkpoint(variables, metadata, target.shapes, keys=target.keys)
    except UserError as error:
        raise UserError(f"{found} does not fit its config: {error}") from error
    conversion.check_finite(found, not_finite(variables), allow_nan)
    unfinished = output.with_name(f".{output.name}.unfinished")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        torch_file.write(unfinished, tree, legacy=legacy)
        written: Any = torch_file.read(unfinished)
        conversion.check_equal(output, tree["state_dict"], written["state_dict"])
        unfinished.rename(output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"Written {found} to {output}, and read back: {len(tree['state_dict'])} tensors.")


def _published(target: Target) -> Path:
    if not target.url:
        raise UserError(f"There is no published file of {target.name}; give one with --input.")
    return download.fetch(target.url)


def _summary(file: Path, digest: str, result: ImportResult) -> str:
    """A report: arrays and numbers of each part of the network, then the rest."""
    lines = conversion.table(file, digest, result.variables)
    lines.append(f"Kept aside: {len(result.counters)} counters num_batches_tracked.")
    if result.path not in ((), ("state_dict",)):
        lines.append(f"Read from {'.'.join(result.path)} in the file.")
    if result.prefix:
        lines.append(f"Taken off the beginning of all keys: {printable(result.prefix)}")
    if result.ignored:
        lines.append(f"Left out by rule: {_some([printable(key) for key in result.ignored])}.")
    if result.left_out:
        lines.append(f"Neither read nor run, for no weight needs it: {_some(result.left_out)}.")
    classes = result.meta.get("CLASSES")
    if isinstance(classes, list):
        lines.append(f"Names of {len(classes)} classes.")
    return "\n".join(lines)


def _some(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:10] + ["..."] * (len(names) > 10))
