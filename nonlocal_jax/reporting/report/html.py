"""Parts of a page. Every text is escaped here, so names of classes may hold anything."""

import base64
import html
import io
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

MARK = "nonlocal_jax report"  # in every page: a file without it is not replaced
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root{color-scheme:light dark;
--ink:#1b1f24;--dim:#57606a;--paper:#fff;--line:#d0d7de;--band:#f6f8fa}
@media (prefers-color-scheme:dark){
:root{--ink:#e6e8eb;--dim:#9aa4af;--paper:#14171a;--line:#3a4149;--band:#1d2227}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1rem 1.25rem 4rem;background:var(--paper);
color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:.6rem 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2rem 0 .6rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .4rem;overflow-wrap:anywhere}
p{max-width:48rem}
a{color:inherit}
figcaption,summary{color:var(--dim)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(24rem,100%),1fr));gap:1rem}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(13rem,100%),1fr));gap:.5rem}
.panels.wide{grid-template-columns:repeat(auto-fit,minmax(min(34rem,100%),1fr))}
figure{margin:0}
figure svg,figure img{width:100%;height:auto;display:block}
figure svg text{font-family:system-ui,sans-serif!important}
img.legend{width:auto;max-width:100%;margin-top:.4rem}
.keys{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem .9rem;margin:.2rem 0;padding:0;
font-size:.85rem}
.keys svg{width:1.8rem;height:.7rem;display:inline;vertical-align:middle;margin-right:.3rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.15rem .5rem;border:1px solid var(--line);text-align:right;vertical-align:top}
th{background:var(--band);font-weight:600}
th[scope=row],.text td,.text th{text-align:left}
.text td{overflow-wrap:anywhere}
.matrix td{background:rgb(59 130 246/calc(var(--s)*.65));padding:.15rem .3rem}
.matrix th[scope=col]{writing-mode:vertical-rl;text-align:right;padding:.4rem .1rem}
caption{caption-side:top;text-align:left;color:var(--dim);padding-bottom:.2rem;white-space:nowrap}
"""

Picture = UInt8[np.ndarray, "_ _ 3"]


def text(value: object) -> str:
    """A value as text of a page."""
    return html.escape(str(value), quote=True)


def paragraph(sentence: str) -> str:
    """A paragraph."""
    return f"<p>{text(sentence)}</p>"


def charts(*figures: str) -> str:
    """Charts, as many in a row as fit."""
    return f'<div class="charts">{"".join(figures)}</div>'


def panels(pictures: Iterable[str], *, wide: bool) -> str:
    """Pictures side by side, as many as fit.

    Args:
      pictures: what `image` returned.
      wide: they are much wider than high, and so fewer of them are in a row.
    """
    return f'<div class="panels{" wide" if wide else ""}">{"".join(pictures)}</div>'


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    caption: str = "",
    kind: str = "",
) -> str:
    """A table whose first column names the rows.

    Args:
      head: titles of the columns.
      rows: cells; None is shown as a dash.
      caption: what the table is.
      kind: "text" for columns of text, else they are of numbers.
    """
    titles = "".join(f'<th scope="col">{text(title)}</th>' for title in head)
    lines = []
    for first, *cells in rows:
        others = "".join(f"<td>{'–' if cell is None else text(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{text(first)}</th>{others}</tr>')
    told = f"<caption>{text(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table{_class(kind)}>{told}<thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def matrix(shares: np.ndarray, titles: np.ndarray, names: Sequence[str], caption: str) -> str:
    """A table of shares in percent, from 0 to 1, that are coloured by their size.

    Args:
      shares: [rows, columns].
      titles: what is told of each cell, of the same shape.
      names: of the rows, and of the columns.
      caption: what the table is.
    """
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    lines = []
    for name, row, told in zip(names, shares.tolist(), titles.tolist(), strict=True):
        cells = "".join(
            f'<td style="--s:{share:.3f}" title="{text(title)}">{100 * share:.0f}</td>'
            for share, title in zip(row, told, strict=True)
        )
        lines.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table class="matrix"><caption>{text(caption)}</caption>'
        f"<thead><tr><th>label \\ predicted</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def image(picture: Picture, alternative: str, caption: str = "", *, legend: bool = False) -> str:
    """A picture with its description.

    Args:
      picture: RGB.
      alternative: what is read aloud in its place.
      caption: is shown below.
      legend: store every pixel as it is, and show it at its own size.
    """
    encoded = io.BytesIO()
    kind, style = ("png", "legend") if legend else ("jpeg", "")
    Image.fromarray(picture).save(encoded, kind, quality=88, subsampling=0)
    return embedded(encoded.getvalue(), alternative, caption, kind=kind, style=style)


def embedded(
    content: bytes, alternative: str, caption: str = "", *, kind: str = "png", style: str = ""
) -> str:
    """The bytes of a PNG or JPEG file, with their description; see `image`."""
    data = base64.b64encode(content).decode()
    told = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img{_class(style)} src="data:image/{kind};base64,{data}" '
        f'alt="{text(alternative)}">{told}</figure>'
    )


def folded(summary: str, content: str) -> str:
    """Content that is shown on request."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def section(title: str, build: Callable[[], str]) -> str:
    """A heading and its content, which is "" for no section.

    What the files of a run hold may be damaged in any way; then a sentence says so.
    """
    try:
        content = build()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        kind = type(error).__name__
        content = paragraph(f"What the run has kept for this part can't be read ({kind}: {error}).")
    return f"<section><h2>{text(title)}</h2>{content}</section>" if content else ""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="generator" content="{MARK}">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>\n"
        f"<h1>{text(title)}</h1>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
