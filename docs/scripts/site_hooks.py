"""What MkDocs lacks for this site: pages from elsewhere in the repository, and links to files.

Pages of docs/ link to each other and to files of the repository, as GitHub shows them. On the site,
a link to a file that is another page leads there, and a link to any other file becomes plain text.
"""

import json
import pathlib
import posixpath
import re
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Page of the site -> file of the repository.
PAGES = {
    "data.md": "data/README.md",
    **{
        f"data_{name}.md": f"data/{name}/README.md"
        for name in ("cityscapes", "ade20k", "voc12aug", "camvid")
    },
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "notebook.md": "docs/notebook.ipynb",
}
OF_FILE = {file: page for page, file in PAGES.items()} | {"README.md": "index.md"}
LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)")
CODE = re.compile(r"(```.*?```)", re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are files elsewhere."""
    for page, file in PAGES.items():
        text = (ROOT / file).read_text()
        content = notebook(text) if file.endswith(".ipynb") else text
        files.append(File.generated(config, page, content=content))
    if (notebook_file := files.get_file_from_path("notebook.ipynb")) is not None:
        files.remove(notebook_file)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Makes links to files of the repository links to pages, or text."""
    here = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = CODE.split(markdown)
    for index in range(0, len(parts), 2):  # the others are code
        parts[index] = LINK.sub(lambda match: _link(match, here, files), parts[index])
    return "".join(parts)


def notebook(text: str) -> str:
    """A notebook as Markdown: its text, its code, and what the code printed."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            if "text" in output:
                parts.append(f"```text\n{''.join(output['text'])}\n```")
            elif "image/png" in output["data"]:
                png = "".join(output["data"]["image/png"].split())
                parts.append(f'<img alt="Output" src="data:image/png;base64,{png}">')
            else:
                parts.append(f"```text\n{''.join(output['data']['text/plain'])}\n```")
    return "\n\n".join(parts) + "\n"


def _link(match: re.Match[str], here: str, files: Files) -> str:
    image, text, target = match.groups()
    path, _, anchor = target.partition("#")
    if "://" in path or not path:
        return match[0]
    file = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
    uri = OF_FILE.get(file, file.removeprefix("docs/") if file.startswith("docs/") else "")
    if not uri or files.get_file_from_path(uri) is None:
        return text
    if file == "README.md":
        anchor = ""
    return f"{image}[{text}]({uri}{'#' + anchor if anchor else ''})"
