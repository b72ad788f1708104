"""Runs docs/notebook.ipynb from top to bottom, and stores what its cells show.

    python docs/scripts/notebook.py

Jupyter is not needed. A cell shows what it prints and the value of its last line.
"""

import ast
import base64
import contextlib
import io
import json
import pathlib
from typing import Any

NOTEBOOK = pathlib.Path(__file__).resolve().parents[1] / "notebook.ipynb"


def run(notebook: dict[str, Any]) -> dict[str, Any]:
    """Runs all cells in one namespace, and fills in their outputs."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        printed, value = _run_cell("".join(cell["source"]), namespace, f"<cell {count}>")
        outputs: list[dict[str, Any]] = []
        if printed:
            outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(printed)})
        if value is not None:
            outputs.append(
                {
                    "data": _show(value),
                    "execution_count": count,
                    "metadata": {},
                    "output_type": "execute_result",
                }
            )
        cell["execution_count"], cell["outputs"] = count, outputs
    return notebook


def _run_cell(source: str, namespace: dict[str, Any], name: str) -> tuple[str, object]:
    """What a cell prints, and the value of its last line."""
    tree, value = ast.parse(source, name), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, name, "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    return printed.getvalue(), value


def _show(value: object) -> dict[str, Any]:
    shown: dict[str, Any] = {"text/plain": _lines(repr(value))}
    if hasattr(value, "_repr_png_"):
        shown = {
            "image/png": base64.b64encode(value._repr_png_()).decode(),
            "text/plain": ["<picture>"],
        }
    return shown


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    done = run(json.loads(NOTEBOOK.read_text()))
    NOTEBOOK.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")
