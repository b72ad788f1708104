"""Writes docs/configuration.md from the dataclasses of the config.

    python docs/scripts/configuration.py

A test compares the page with what this makes.
"""

import dataclasses
import pathlib
import typing
from collections.abc import Iterator

from nonlocal_jax.config import describe, files, keys, ranges, tables

PAGE = pathlib.Path(__file__).resolve().parents[1] / "configuration.md"
HEAD = "| key | default | may be | meaning |\n|---|---|---|---|"
ABOVE = (  # in the defaults
    *("resnet", "nonlocal", "fcn", "cross_entropy", "sgd", "polynomial"),
    *("video_resnet", "classification", "caffe2_sgd", "steps"),
)
INTRODUCTION = """\
# Configuration

A config is a Python file with a function `get_config()` that returns an
[ml_collections](https://github.com/google/ml_collections) `ConfigDict`. It states what differs from
the defaults of this page. `--config` takes the name of an installed config, or a path:

```
nonlocal-jax train --config=ade20k_r50_80k
nonlocal-jax train --config=my/config.py
nonlocal-jax train --config=runs/ade20k_r50_80k/config.json --workdir=runs/again
```

`--config.KEY=VALUE` changes a value:

```
nonlocal-jax train --config=camvid --config.optimizer.learning_rate=0.005 \\
    --config.data.crop_size=120,160 --config.data.photometric_distortion=False
```

All values are checked before a run starts. A key that does not exist is an error that names the
nearest key. A value out of its range is an error that states the range.

A config of your own usually starts from another one:

```python
from nonlocal_jax.config import common


def get_config():
    config = common.ade20k()
    common.resnet101(config)
    config.batch_size = 32
    config.optimizer.scale_from_batch_size = 16
    config.optimizer.warmup_steps = 1000
    return config
```

`common.cityscapes()`, `common.cityscapes_769()`, `common.ade20k()` and `common.voc12aug()` are the
settings of the published rows. `common.base()` has the defaults alone.

In Python, `nonlocal_jax.config.files.load` reads a config, and returns the frozen dataclasses of
`nonlocal_jax.config.schema`:

```python
from nonlocal_jax.config import files

config = files.load("camvid", **{"model.backbone.depth": 50})
config.model.backbone.depth  # 50
```

The sections `model.backbone`, `model.decode_head`, `model.auxiliary_head`, `optimizer`,
`optimizer.schedule`, `loss` and `auxiliary_loss` have a `name`. It selects a module, and the module
decides which other keys the section has. `--help` of a command lists the keys of the config in
`--config`.
"""
VIDEOS = """
## Videos

A config with `task = "video"` starts from `kinetics.base()` or `kinetics.row(...)` of
`nonlocal_jax.config`. The keys below are its own. It has the keys above, too, but for those of
`data`, `eval`, `published`, `model.align_corners`, and the sections `model.decode_head` and
`model.auxiliary_head`."""


def page() -> str:
    """The text of the page."""
    images, videos = (
        describe.settings(files.validate(files.complete({"task": task}))) for task in keys.TASKS
    )
    others = [setting for setting in videos if setting.is_section or setting not in images]
    parts = [*_tables(images, ""), VIDEOS, *_tables(others, " of videos"), *_choices()]
    return "\n".join([INTRODUCTION, *parts]) + "\n"


def _tables(settings: list[describe.Setting], of: str) -> Iterator[str]:
    """A table of keys at their defaults for each section that has any."""
    sections = {"": "Keys outside of any section."}
    sections |= {s.key: s.doc for s in settings if s.is_section}
    for section, meaning in sections.items():
        rows = [
            _row(setting.key, setting.value, setting.allowed, setting.doc)
            for setting in settings
            if not setting.is_section and setting.key.rpartition(".")[0] == section
        ]
        if rows:
            title = f"`{section}`" if section else "The run"
            yield f"\n## {title}{of}\n\n{meaning}\n\n{HEAD}"
            yield from rows


def _choices() -> Iterator[str]:
    """What each name of a table stands for, and the keys that are in no table above."""
    yield (
        "\n## What the names stand for\n\n"
        "A name is one of these, or the dotted name of a module of your own: see "
        "[Extending](extending.md)."
    )
    for table, modules in tables.TABLES.items():
        yield f"\n### {table}\n"
        for name in modules:
            module = tables.find(table, name, table)
            summary = (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
            yield f"- `{name}`: {summary}{'' if name in ABOVE else _keys(module)}"


def _keys(module: object) -> str:
    options = getattr(module, "Options", None)
    if options is None:
        return ""
    hints = typing.get_type_hints(options, include_extras=True)
    docs = describe.field_docs(options)
    own = [
        f"\n    - `{field.name}` ({_may_be(field, hints[field.name])}): {docs.get(field.name, '')}"
        for field in dataclasses.fields(options)
        if field.name != "name"
    ]
    return "".join(own)


def _may_be(field: dataclasses.Field[object], hint: object) -> str:
    """The range and the default of a key, or the table and the default name of a section."""
    if "table" in field.metadata:
        name = field.metadata["values"]["name"]
        return f"a section with the keys of one of the {field.metadata['table']}; default `{name}`"
    has_default = field.default is not dataclasses.MISSING
    default = _value(field.default) if has_default else ""
    return f"{ranges.describe(hint)}; default {default or 'empty'}"


def _row(key: str, value: object, allowed: str, meaning: str) -> str:
    cells = [f"`{key}`", _value(value), allowed, meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(value: object) -> str:
    if value is None or value in ("", {}, ()):
        return ""
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page())
