"""Line charts as SVG inside a page, in colours that can be read on light and dark paper."""

import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from nonlocal_jax.reporting.history import is_number
from nonlocal_jax.reporting.report import html

COLOURS = ("#3b82f6", "#e8590c", "#2f9e44", "#ae3ec9", "#0c8599", "#e03131", "#a0730a", "#d6336c")
DASHES = ("none", "6 3", "2 2", "8 3 2 3")  # so that lines differ in more than colour
INK, LINE = "#010203", "#040506"  # stand for the page's own colours
SIZE = (6.2, 2.9)  # inches
RULES: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
}


@dataclass(frozen=True)
class Series:
    """A line: a name, and its value at some steps; what is no finite number is left out."""

    name: str
    steps: Sequence[int]
    values: Sequence[object]

    @property
    def points(self) -> list[tuple[int, float]]:
        """The steps and values that are shown."""
        return [
            (step, float(value))
            for step, value in zip(self.steps, self.values, strict=True)
            if is_number(value)
        ]


def lines(title: str, series: Sequence[Series], *, percent: bool = False, log: bool = False) -> str:
    """A chart of lines over steps with its key; "" if no line has two points.

    Args:
      title: what the values are.
      series: the lines. Each has the same colour in all charts that have it at the same place.
      percent: values are shares, and are shown in percent.
      log: the axis is logarithmic, if all values are above 0 and the largest is over ten times the
        smallest. The title then says so.
    """
    shown = [(number, one) for number, one in enumerate(series) if one.points]
    if all(len(one.points) < 2 for _, one in shown):
        return ""
    factor = 100.0 if percent else 1.0
    values = [value for _, one in shown for _, value in one.points]
    logarithmic = log and min(values) > 0 and max(values) > 10 * min(values)
    with mpl.rc_context(RULES):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for number, one in shown:
            steps, heights = zip(*one.points, strict=True)
            colour, dash = _style(number)
            axes.plot(
                steps,
                [factor * height for height in heights],
                color=colour,
                linewidth=1.6,
                linestyle="-" if dash == "none" else (0, [float(d) / 1.6 for d in dash.split()]),
                marker="o" if len(steps) <= 30 else "",
                markersize=3.5,
            )
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.grid(which="minor", axis="y")
        axes.set_xlabel("step")
        axes.set_ylabel("%" if percent else "")
        svg = _svg(figure)
    title += " (logarithmic scale)" if logarithmic else ""
    told = f"{title} over steps: " + "; ".join(_told(one, factor) for _, one in shown)
    keys = "".join(_key(number, one.name) for number, one in shown)
    keys = f'<ul class="keys">{keys}</ul>' if len(series) > 1 else ""
    opening = f'<svg role="img" aria-label="{html.text(told)}"'
    body = svg.replace("<svg", opening, 1)
    return f"<figure><figcaption>{html.text(title)}</figcaption>{body}{keys}</figure>"


def _told(one: Series, factor: float) -> str:
    """A line in words."""
    (first, start), (last, end) = one.points[0], one.points[-1]
    return f"{one.name} {factor * start:.4g} at step {first}, {factor * end:.4g} at step {last}"


def _style(number: int) -> tuple[str, str]:
    again, place = divmod(number, len(COLOURS))
    return COLOURS[place], DASHES[(place + again) % len(DASHES)]


def _key(number: int, name: str) -> str:
    colour, dash = _style(number)
    line = (
        f'<svg viewBox="0 0 28 8" aria-hidden="true"><line x1="0" y1="4" x2="28" y2="4" '
        f'stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"/></svg>'
    )
    return f"<li>{line}{html.text(name)}</li>"


_COUNT = itertools.count()


def _svg(figure: Figure) -> str:
    """The figure as an element of a page, in the page's colours, with names that are its own."""
    encoded = io.StringIO()
    figure.savefig(encoded, format="svg", transparent=True, metadata={"Date": None})
    text = encoded.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor").replace(LINE, "var(--line)")
    own = f"c{next(_COUNT)}-"
    text = re.sub(r'\bid="', f'id="{own}', text)
    return re.sub(r"(url\(#|href=\"#)", rf"\g<1>{own}", text)
