"""The documentation is true: commands, links, paths, tables, the notebook and the site."""

import ast
import importlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from conftest import REPOSITORY

from nonlocal_jax.__main__ import COMMANDS
from nonlocal_jax.config import command_line, files
from nonlocal_jax.errors import UserError

DOCS = REPOSITORY / "docs"
PAGES = sorted(
    [
        *DOCS.glob("*.md"),
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("data/*.md"),
        *REPOSITORY.glob("data/*/README.md"),
    ]
)
SCRIPTS = sorted(REPOSITORY.glob("launch/*.sh"))
CALL = re.compile(r"(?:nonlocal-jax|python -m nonlocal_jax)[ .](\w+)((?:\\\n|[^\n`|])*)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|md|sh|toml|txt|env))`")
MODULE_OF_COMMAND = {name: name for name in COMMANDS} | {"train": "main", "main": "main"}
# Files that are no part of the repository: a reader's own, and those of a data set.
ELSEWHERE = (
    "my/config.py",
    "my_project/psp.py",
    "peer/peer.py",
    "ImageSets/Segmentation/aug.txt",
)


def name_of(path):
    return str(path.relative_to(REPOSITORY))


def script(name):
    """A module of docs/scripts."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def calls(text):
    """The commands in a text: each one's name and words."""
    for name, rest in CALL.findall(text):
        rest = rest.replace("\\\n", " ").partition(" # ")[0].partition(" && ")[0]
        rest = rest.replace("[", "").replace("]", "").replace("(default", "")
        if name != "NAME":
            yield name, [word for word in shlex.split(rest.replace("'", '"')) if "..." not in word]


def check_call(name, words):
    """Raises a UserError for a flag or a key that there is not, or a value out of its range."""
    module = importlib.import_module(f"nonlocal_jax.{MODULE_OF_COMMAND[name]}")
    own = [word for word in words if word.startswith("--") and not word.startswith("--config.")]
    overrides = [word for word in words if word.startswith("--config.") and "$" not in word]
    given = dict(word.split("=", 1) for word in own if "=" in word)
    placeholders = [word for word in own if re.fullmatch(r"--\w+=\$\w+", word)]
    takes = "none" if name == "prepare" else "optional"
    options = command_line._parse([w for w in own if w not in placeholders], module.define, takes)
    if options is None or not overrides:
        return
    keys = command_line._split(overrides)[1]
    config = given.get("--config", "demo")
    known = pathlib.Path(config.partition(":")[0]).stem in files.names()
    command_line.apply_overrides(files.read(config if known else "demo"), keys)


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=name_of)
def test_commands_and_their_flags_exist(path):
    for name, words in calls(path.read_text()):
        assert name in MODULE_OF_COMMAND, f"{name} is no command"
        if path.name == "extending.md":  # its keys are those of modules to be written
            words = [word for word in words if not word.startswith("--config.")]
        try:
            check_call(name, words)
        except UserError as error:
            pytest.fail(f"{name} {' '.join(words)}: {error}")


def test_configs_open_with_the_command_that_runs_them():
    for path in sorted((REPOSITORY / "configs").glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        found = list(calls(docstring))
        assert found, path
        for name, words in found:
            check_call(name, words)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    for target in LINK.findall(prose(path.read_text())):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert anchor in {anchor_of(heading) for heading in headings}, target


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_that_are_named_exist(path):
    text = path.read_text()
    if path.name == "extending.md":
        text = prose(text)
    for name in PATH.findall(text):
        places = (REPOSITORY, REPOSITORY / "nonlocal_jax", REPOSITORY / "tests")
        there = name in ELSEWHERE or name.startswith("tools/")  # of MMSegmentation
        assert there or any((place / name).exists() for place in places), name


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_python_in_the_docs_is_python(path):
    for block in re.findall(r"```python(?: [^\n]*)?\n(.*?)```", path.read_text(), re.DOTALL):
        if not block.startswith('    "'):  # a line of a table
            ast.parse(block)


def test_the_page_of_all_keys_is_up_to_date():
    assert (DOCS / "configuration.md").read_text() == script("configuration").page(), (
        "run: python docs/scripts/configuration.py"
    )


def test_the_page_of_all_rows_is_up_to_date():
    assert (DOCS / "rows.md").read_text() == script("rows").page(), (
        "run: python docs/scripts/rows.py"
    )


def test_the_readme_has_every_row_with_its_published_numbers():
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    rows = {m[1]: line for line in lines if (m := re.match(r"\| \[`(\w+)`\]", line))}
    published = {name: files.load(name) for name in files.names() if not files.rows(name)}
    published = {
        name: config
        for name, config in published.items()
        if config.task == "segmentation" and config.published.url
    }
    assert set(rows) == set(published) and len(rows) == 16
    for name, config in published.items():
        cells = [cell.strip() for cell in rows[name].strip("|").split("|")]
        _, crop, steps, batch, mode, *numbers, link = cells
        row, data = config.published, config.data
        assert crop == f"{data.crop_size[0]}x{data.crop_size[1]}"
        assert steps == f"{config.total_steps // 1000}k" and int(batch) == config.batch_size
        assert mode == config.eval.mode and row.url in link
        expected = (row.miou, row.miou_tta, row.memory_gb, row.fps)
        assert [None if cell == "–" else float(cell) for cell in numbers] == list(expected)


def test_the_page_on_videos_has_every_row_with_its_published_numbers():
    lines = (DOCS / "video.md").read_text().splitlines()
    rows = {m[1]: line for line in lines if (m := re.match(r"\| \[`(\w+)`\]", line))}
    assert len(rows) == 15
    for name, line in rows.items():
        _, clip, norm, steps, batch, top1, top5, link = line.strip("| ").split(" | ")
        config = files.load(name)
        row, data = config.published, config.data
        assert clip == f"{data.frames}x{data.frame_stride}"
        assert norm == config.model.backbone.norm
        assert steps == f"{config.total_steps // 1000}k" and int(batch) == config.batch_size
        assert (float(top1), float(top5)) == (row.top1, row.top5) and row.url in link


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_what_make_is_told_to_make_is_a_target(path):
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^| )make ([a-z]+)(?:`|\n|  )", path.read_text())) <= set(targets)


def test_the_site_begins_with_the_table_of_the_readme():
    readme = (REPOSITORY / "README.md").read_text().partition("## Documentation")[2]
    table = re.findall(r"^\| \[.*", readme, re.MULTILINE)
    moved = [row.replace("](docs/", "](").replace("](data/", "](../data/") for row in table]
    assert moved == re.findall(r"^\| \[.*", (DOCS / "index.md").read_text(), re.MULTILINE)
    named = {match[1] for row in moved if (match := LINK.search(row))}
    assert {path.name for path in DOCS.glob("*.md")} <= named | {"index.md"}


def test_every_extra_is_listed():
    page = (DOCS / "getting_started.md").read_text().partition("### Commands")[0]
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    devices = re.findall(r"`pip install \"\.\[(\w+)\]\"`", page)
    assert sorted([*listed, *devices]) == sorted(extras)


def test_the_drawing_has_every_room():
    drawing = (DOCS / "architecture.md").read_text().split("```")[1]
    rooms = {path.parent.name for path in (REPOSITORY / "nonlocal_jax").glob("*/__init__.py")}
    assert rooms | {"commands", "errors"} == set(re.findall(r"^(\w+)", drawing, re.MULTILINE))
    for command in set(MODULE_OF_COMMAND.values()):
        assert command in drawing


def test_the_notebook_runs(tmp_path):
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import notebook\n"
        "from nonlocal_jax.inputs.datasets import scenes; scenes.COUNTS['val'] = 8\n"
        "text = notebook.NOTEBOOK.read_text().replace('STEPS = 30', 'STEPS = 2')\n"
        "done = notebook.run(json.loads(text))\n"
        "print(json.dumps(done))"
    )
    flags = "--xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", code, str(DOCS / "scripts")],
        cwd=tmp_path,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    now, stored = json.loads(done.stdout), json.loads((DOCS / "notebook.ipynb").read_text())
    for new, old in zip(now["cells"], stored["cells"], strict=True):
        kinds = [
            [sorted(o.get("data", {})) for o in cell.get("outputs", ())] for cell in (new, old)
        ]
        assert kinds[0] == kinds[1], "run: python docs/scripts/notebook.py"


@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="the extra `docs` is missing")
def test_the_site_builds_and_needs_nothing_from_elsewhere(tmp_path):
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    for page in site.glob("*.html"):
        loaded = r"<(?:script|img|link)[^>]+(?:src|href)=\"?https?://"
        assert not re.search(loaded, page.read_text()), page


def prose(text):
    """A page without its code."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchor_of(heading):
    """The anchor that GitHub and MkDocs give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
