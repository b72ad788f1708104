"""Writes docs/rows.md, a table of all published rows, from configs/.

    python docs/scripts/rows.py

A test compares the page with what this makes.
"""

import ast
import pathlib
from collections.abc import Iterator

from nonlocal_jax.config import files, schema

PAGE = pathlib.Path(__file__).resolve().parents[1] / "rows.md"
INTRODUCTION = """\
# Published rows

MMSegmentation published {count} networks of the non-local family on the backbones R-50-D8 and
R-101-D8. Each is a row of these tables. `--config` takes the name in the first column:

```
nonlocal-jax convert --config=dnl:ade20k_r50_80k --output=checkpoints/dnl_ade20k
nonlocal-jax evaluate --checkpoint=checkpoints/dnl_ade20k --tta
nonlocal-jax train --config=dnl:ade20k_r50_80k
nonlocal-jax plan --config=dnl:ade20k_r50_80k --topology=v5e:4x4
nonlocal-jax benchmark --all_rows --methods=nonlocal,dnl
```

The figures are MMSegmentation's. "mem" is training memory in GB for each GPU, "fps" is images per
second of inference on a V100 (at 1024x2048 on Cityscapes). "batch" is the global batch size. No
training run of this length has been made with this project."""
HEAD = (
    "| config | crop | steps | batch | test | mIoU | ms+flip | mem | fps | |\n"
    "|---|---|--:|--:|---|--:|--:|--:|--:|---|"
)
TITLES = {"nonlocal": "NonLocalNet (Wang et al. 2018, arXiv 1711.07971)"}
DATA = ("cityscapes", "ade20k", "voc12aug")


def page() -> str:
    """The text of the page."""
    methods: dict[str, dict[str, schema.Config]] = {"nonlocal": {}}
    for name in files.names_with_rows():
        config = files.load(name)
        if isinstance(config, schema.Config) and config.published.url:
            method = name.partition(":")[0] if ":" in name else "nonlocal"
            methods.setdefault(method, {})[name] = config
    count = sum(map(len, methods.values()))
    tables = (line for method, rows in methods.items() for line in _table(method, rows))
    return "\n".join([INTRODUCTION.format(count=count), *tables]) + "\n"


def _table(method: str, rows: dict[str, schema.Config]) -> Iterator[str]:
    """A section of the page."""
    yield f"\n## {TITLES.get(method) or _title(method)}\n\n{HEAD}"
    for name, config in sorted(rows.items(), key=lambda item: _order(item[1])):
        data, row = config.data, config.published
        path = f"../configs/{name.partition(':')[0]}.py"
        cells = [
            f"[`{name}`]({path})",
            "x".join(map(str, data.crop_size)),
            f"{config.total_steps // 1000}k",
            str(config.batch_size),
            config.eval.mode,
            *(_figure(figure, 2) for figure in (row.miou, row.miou_tta)),
            *(_figure(figure, 1) for figure in (row.memory_gb, row.fps)),
            f"[checkpoint]({row.url})",
        ]
        yield f"| {' | '.join(cells)} |"


def _title(method: str) -> str:
    """The first sentence of a config's file."""
    docstring = ast.get_docstring(ast.parse(files.find(method).read_text())) or ""
    return docstring.partition("\n")[0].removesuffix(".")


def _order(config: schema.Config) -> tuple[int, tuple[int, int], int, int]:
    backbone = getattr(config.model.backbone, "depth", 0)
    return DATA.index(config.data.name), config.data.crop_size, config.total_steps, backbone


def _figure(figure: float | None, decimals: int) -> str:
    """A figure with at least so many decimals."""
    if figure is None:
        return "–"
    return f"{figure:.{max(len(repr(figure).partition('.')[2]), decimals)}f}"


if __name__ == "__main__":
    PAGE.write_text(page())
