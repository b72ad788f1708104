"""The model card of a hub folder: front matter in YAML, which the hub reads, then text."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from nonlocal_jax.checkpoints.hub.files import WEIGHTS
from nonlocal_jax.checkpoints.hub.results import Known, known
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config.schema import Config, Run
from nonlocal_jax.config.video import VideoConfig, backbone_details
from nonlocal_jax.errors import UserError

PAPER = "1711.07971"
# Files of one's own and generated data, which the hub knows nothing of.
OWN_DATA = ("folder", "video_folder", "scenes", "moving_shapes")
SHOWN_CLASSES = 40
IMAGES = """mask = model.predict(nonlocal_jax.read_image("photo.jpg"))  # class of each pixel
names = {model.class_names[label] for label in mask.flat}"""
VIDEOS = """model.top("video.mp4")  # names and probabilities of the first classes"""


def text(
    name: str,
    content: Mapping[str, Any],
    metadata: Metadata,
    variables: Mapping[str, np.ndarray],
    license: str,
) -> str:
    """The content of README.md.

    Args:
      name: of the model.
      content: of config.json.
      metadata: of the checkpoint, with its config.
      variables: its arrays by name.
      license: of the weights, by the hub's name.
    """
    config = metadata.config
    assert config is not None
    scores = known(metadata, content["score"])
    front = yaml.safe_dump(
        _front_matter(name, config, scores, license), sort_keys=False, allow_unicode=True
    )
    sections = [
        f"---\n{front}---\n\n# {name}",
        _what(config, variables, metadata.class_names or ()),
        _results(scores),
        _provenance(config, metadata, content),
        _use(name, config, content),
        "## Licence\n\n"
        f"The weights: {license}. The terms of the data set may restrict their use further. The "
        "code, nonlocal_jax: apache-2.0.",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(name: str, config: Run, scores: list[Known], license: str) -> dict[str, Any]:
    task, (kind, parts), details = _pipeline(config), _parts(config), _details(config)
    data = _data_name(config)
    front: dict[str, Any] = {
        "license": license,
        "library_name": "nonlocal_jax",
        "pipeline_tag": task,
        "tags": [
            *("jax", "flax", "non-local", kind.replace(" ", "-"), *parts),
            *([details.split()[0].lower()] if details else []),
            f"arxiv:{PAPER}",
        ],
    }
    if data not in OWN_DATA:
        front["datasets"] = [data]
    results = [_index_entry(task, data, score) for score in scores]
    if results:
        front["model-index"] = [{"name": name, "results": results}]
    return front


def _index_entry(task: str, data: str, score: Known) -> dict[str, Any]:
    metric = {"type": score.metric, "name": f"{score.name}, percent", "value": score.percent}
    entry: dict[str, Any] = {
        "task": {"type": task},
        "dataset": {"type": data, "name": data, "split": "validation"},
        "metrics": [metric],
    }
    if score.url:
        entry["source"] = {"name": "the published file", "url": score.url}
    return entry


def _what(config: Run, variables: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    kind, (backbone, head) = _parts(config)
    numbers = sum(value.size for value in variables.values())
    shown = ", ".join(classes[:SHOWN_CLASSES]) + ", ..." * (len(classes) > SHOWN_CLASSES)
    details = _details(config)
    return (
        f"A network for {kind} in JAX and Flax: backbone `{backbone}`"
        f"{details and f' ({details})'}, head `{head}`, "
        f"{numbers:,} parameters and statistics. It is of the family of "
        f"[non-local neural networks](https://arxiv.org/abs/{PAPER}).\n\n"
        f"{len(classes)} classes: {shown}."
    )


def _results(scores: list[Known]) -> str:
    if not scores:
        return "## Results\n\nNo score of these weights is known."
    rows = [
        f"| {score.name} | {score.percent:.2f} | {score.protocol} | {score.origin} |"
        for score in scores
    ]
    head = "| score | percent | protocol | origin |\n|---|--:|---|---|"
    return "\n".join(["## Results", "", "On the validation split.", "", head, *rows])


def _provenance(config: Run, metadata: Metadata, content: Mapping[str, Any]) -> str:
    versions = [f"{name} {number}" for name, number in content["versions"].items()]
    lines = [f"Data set: {_data_name(config)}."]
    if metadata.network:
        lines.append(f"Config: `{metadata.network}`. All of it is in `config.json`.")
    else:
        lines.append("Config: in `config.json`.")
    if metadata.source:
        lines.append(
            f"Converted from `{metadata.source.get('file')}`, "
            f"SHA-256 `{metadata.source.get('sha256')}`."
        )
    if metadata.step is not None:
        lines.append(f"Trained with nonlocal_jax: step {metadata.step} of {config.total_steps}.")
    if metadata.kind == "training" and config.init_from:
        start = config.init_from.rstrip("/").rpartition("/")[2]
        lines.append(f"The training started from `{start}`.")
    if metadata.kind == "training" and config.ema_decay:
        lines.append("The weights are the run's moving average.")
    lines += [
        f"Written by {', '.join(versions)}.",
        f"SHA-256 of `{WEIGHTS}`: `{content['weights']['sha256']}`.",
    ]
    return "\n".join(["## Provenance", "", *(f"- {line}" for line in lines)])


def _use(name: str, config: Run, content: Mapping[str, Any]) -> str:
    example = VIDEOS if isinstance(config, VideoConfig) else IMAGES
    blocks = [
        "## How to use",
        f"`{name}` is this folder, or its name on the hub, `org/name`, which needs "
        "`pip install 'nonlocal_jax[hub]'`.",
        f'```python\nimport nonlocal_jax\n\nmodel = nonlocal_jax.load("{name}")\n{example}\n```',
        f"```\nnonlocal-jax predict --checkpoint={name} --input=FILES --output=results\n```",
    ]
    if content["weights"]["keys"] == "pytorch":
        blocks.append(
            "The arrays have the names and layouts of MMSegmentation's network, which loads them "
            "strictly:\n\n```python\nfrom safetensors.torch import load_file\n\n"
            f'network.load_state_dict(load_file("{name}/{WEIGHTS}"), strict=True)\n```'
        )
    return "\n\n".join(blocks)


def _pipeline(config: Run) -> str:
    """The task, by the hub's name."""
    return "video-classification" if isinstance(config, VideoConfig) else "image-segmentation"


def _parts(config: Run) -> tuple[str, tuple[str, str]]:
    """The task in words; the backbone and the head."""
    if isinstance(config, VideoConfig):
        video = config.model.backbone
        return "video classification", (_backbone(video), config.model.head.name)
    if isinstance(config, Config):
        model = config.model
        return "semantic segmentation", (_backbone(model.backbone), model.decode_head.name)
    raise UserError(f"There is no model card for config.task {config.task!r}.")


def _backbone(options: Any) -> str:
    """The name of a backbone, with its depth if it has one."""
    depth = getattr(options, "depth", None)
    return f"{options.name}{f'-{depth}' if depth else ''}"


def _details(config: Run) -> str:
    """What tells video backbones of a name apart; "" for images."""
    options = config.model.backbone if isinstance(config, VideoConfig) else None
    return backbone_details(getattr(options, "kind", None), getattr(options, "non_local", None))


def _data_name(config: Run) -> str:
    data: Any = getattr(config, "data", None)
    return str(data.name)
