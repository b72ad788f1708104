"""The page of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from nonlocal_jax.reporting import outputs, time_spent
from nonlocal_jax.reporting.attention import Peak
from nonlocal_jax.reporting.history import History, is_number
from nonlocal_jax.reporting.pictures import Picture
from nonlocal_jax.reporting.report import charts, facts, html
from nonlocal_jax.reporting.side_by_side import Panels

MOST_CELLS = 40  # classes, at most, of a confusion matrix that is a table
MOST_CONFUSED = 12  # pairs of classes in a table
MOST_LINES = 12  # classes in a chart; of more, those with the highest and the lowest scores
WIDE = 3  # widths to a height, from which a picture is too flat for a narrow column
PANELS = {
    "image": "The image",
    "label": "Tinted by label",
    "prediction": "Tinted by predicted class",
    "error": "Wrong pixels in red; black has no label",
}


@dataclass(frozen=True)
class Attended:
    """What a wrong pixel of an image attends to.

    Attributes:
      picture: the map over the image.
      scale: of its colours.
      peak: how peaked the map is.
    """

    picture: Picture
    scale: Picture
    peak: Peak


@dataclass(frozen=True)
class Drawn:
    """The pictures of one image.

    Attributes:
      name: of the image.
      accuracy: share of its labelled pixels that are right; None without a label.
      panels: image, label, prediction and error.
      attended: None for a network without attention.
    """

    name: str
    accuracy: float | None
    panels: Panels
    attended: Attended | None


def run_page(name: str, history: History, drawn: Sequence[Drawn], note: str = "") -> str:
    """The page of a run.

    Args:
      name: the title.
      history: of the run.
      drawn: pictures of its worst images.
      note: which images they are of, or why there are none, in a sentence.
    """
    title = facts.TITLES[history.by_class]
    parts = [html.paragraph(facts.state(history))]
    if history.unreadable:
        parts.append(html.paragraph(f"Can't be read: {', '.join(history.unreadable)}."))
    parts += [
        html.section("Summary", partial(_summary, history)),
        html.section("Training", partial(_training, history)),
        html.section("Time", partial(_time, history)),
        html.section("Evaluations", partial(_evaluations, history)),
        html.section(f"{title} of each class", partial(_classes, history)),
        html.section("Confusion matrix", partial(_confusion, history)),
        html.section("Worst images", partial(_worst, history, drawn, note)),
        html.section("Worst videos", partial(_videos, history)),
        html.section("Attention", partial(_attention, drawn)),
        html.section("Config", partial(_settings, facts.flat_config(history))),
        html.section("Environment", partial(_settings, facts.flat_environment(history), "")),
        html.section("Log", partial(_log, history)),
    ]
    return html.page(name, parts)


def _summary(history: History) -> str:
    known = [(k, v) for k, v in facts.summary(history).items() if v is not None]
    return html.table(["", "value"], known, kind="text")


def _training(history: History) -> str:
    entries = history.steps
    if not entries:
        return html.paragraph("No training step is in the log.")
    others = sorted({key for entry in entries for key in entry if key.startswith("loss_")})
    total, *parts = [facts.series(key.replace("_", " "), entries, key) for key in ["loss", *others]]
    losses = [total, *(part for part in parts if part.points != total.points)]
    rate = facts.rate_key(entries)
    found = [
        charts.lines("Training loss", losses, log=True),
        charts.lines(
            "Accuracy on training batches",
            [facts.series("accuracy", entries, "accuracy")],
            percent=True,
        ),
        charts.lines("Learning rate", [facts.series("rate", entries, "learning_rate")]),
    ]
    if rate:
        found.append(charts.lines(facts.rate_title(rate), [facts.series("speed", entries, rate)]))
    return html.charts(*found)


def _time(history: History) -> str:
    """What the time was spent on; the run's goodput is the share of the training steps."""
    if not history.goodput:
        return ""
    return html.table(time_spent.HEAD, time_spent.rows(history.goodput["seconds"]))


def _evaluations(history: History) -> str:
    entries = history.evaluations
    if not entries:
        return html.paragraph("There is no evaluation yet.")
    names = facts.score_names(entries)
    titles = [facts.TITLES.get(name, name) for name in names]
    lines = [facts.series(t, entries, name) for t, name in zip(titles, names, strict=True)]
    rows = [
        [e["step"], *(facts.percent(e.get(name)) for name in names)] for e in facts.thinned(entries)
    ]
    chart = charts.lines("Scores on the validation split", lines, percent=True)
    return html.charts(chart) + html.table(["step", *titles], rows, caption="Scores in percent")


def _classes(history: History) -> str:
    """A chart of the classes' scores over time, and a table of all scores of one evaluation."""
    key, parts = history.by_class, []
    entries = [e for e in history.evaluations if isinstance(e.get(key), Mapping)]
    if entries:
        names = _chosen(entries[-1][key])
        lines = [
            charts.Series(n, [e["step"] for e in entries], [e[key].get(n) for e in entries])
            for n in names
        ]
        title = f"{facts.TITLES[key]} over time"
        if len(names) < sum(map(is_number, entries[-1][key].values())):
            title += ": the best and the worst classes at the end"
        parts.append(html.charts(charts.lines(title, lines, percent=True)))
    kept = history.record()
    if kept is not None and kept[1].get("classes"):
        rows = kept[1]["classes"]
        columns = [name for name in rows[0] if name not in ("name", "videos")]
        cells = [[r["name"], *(facts.percent(r.get(c)) for c in columns)] for r in rows]
        titles = ["class", *(facts.TITLES.get(c, c) for c in columns)]
        parts.append(html.table(titles, cells, caption=f"Scores in percent, {kept[0]}"))
    return "".join(parts)


def _chosen(scores: Mapping[str, object]) -> list[str]:
    """All classes if they are few, else those with the highest and the lowest scores."""
    known = {name: value for name, value in scores.items() if is_number(value)}
    if len(known) <= MOST_LINES:
        return list(known)
    ordered = sorted(known, key=lambda name: -known[name])
    return [*ordered[: MOST_LINES // 2], *ordered[-(MOST_LINES // 2) :]]


def _confusion(history: History) -> str:
    kept = history.record()
    if kept is None or "confusion" not in kept[1]:
        return ""
    which, record = kept
    counts = np.array(record["confusion"], np.int64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"its shape is {counts.shape}")
    rows = record.get("classes") or [{"name": i} for i in range(len(counts))]
    names = [str(row["name"]) for row in rows]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    unit = "videos" if history.score == "top1" else "pixels"
    told = f"Percent of the {unit} of each label (row), {which}"
    if len(counts) <= MOST_CELLS:
        titles = np.array([[f"{count} {unit}" for count in row] for row in counts.tolist()])
        body = html.matrix(share, titles, names, told)
    else:
        picture = outputs.confusion_png(counts, names)
        body = html.embedded(picture, f"The confusion matrix of {len(names)} classes", told)
    return body + _confused(counts, share, names, unit)


def _confused(counts: np.ndarray, share: np.ndarray, names: Sequence[str], unit: str) -> str:
    """The pairs of classes that account for most errors."""
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    if not wrong.any():
        return ""
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [np.unravel_index(place, wrong.shape) for place in order]
    rows = [
        [names[i], names[j], facts.percent(wrong[i, j] / wrong.sum()), facts.percent(share[i, j])]
        for i, j in pairs
        if wrong[i, j]
    ]
    head = ["label", "predicted as", "% of all errors", f"% of the label's {unit}"]
    return html.table(head, rows, caption="The most frequent errors")


def _worst(history: History, drawn: Sequence[Drawn], note: str) -> str:
    parts = [html.paragraph(note)] if note else []
    if not drawn:
        kept = history.record()
        worst = [one for one in kept[1].get("worst", []) if "accuracy" in one] if kept else []
        rows = [[one["name"], facts.percent(one["accuracy"])] for one in worst]
        parts += [html.table(["image", "% of its pixels right"], rows)] if rows else []
    for one in drawn:
        right = "" if one.accuracy is None else f": {100 * one.accuracy:.1f}% of its pixels right"
        shown = [
            html.image(getattr(one.panels, key), f"{caption}: {one.name}", caption)
            for key, caption in PANELS.items()
        ]
        legend = html.image(one.panels.legend, "The colours of the classes", legend=True)
        parts.append(
            f"<h3>{html.text(one.name + right)}</h3>"
            f"{html.panels(shown, wide=_is_wide(one.panels.image))}{legend}"
        )
    return "".join(parts)


def _attention(drawn: Sequence[Drawn]) -> str:
    found = [(one.name, one.attended) for one in drawn if one.attended is not None]
    if not found:
        return ""
    shown = [
        html.image(a.picture, f"What a marked pixel of {name} attends to", f"{name}: {a.peak}")
        for name, a in found
    ]
    scale = html.image(found[0][1].scale, "The scale of the colours", legend=True)
    told = (
        "What a pixel in the middle of an error attends to. A colour stands for a multiple of the "
        "weight that each place would have if all had the same."
    )
    wide = any(_is_wide(attended.picture) for _, attended in found)
    return html.paragraph(told) + html.panels(shown, wide=wide) + scale


def _is_wide(picture: Picture) -> bool:
    height, width = picture.shape[:2]
    return bool(width > WIDE * height)


def _videos(history: History) -> str:
    kept = history.record()
    worst = kept[1].get("worst", []) if kept else []
    rows = [
        [v["name"], v["label"], v["classes"][0], facts.percent(v["probabilities"][0])]
        for v in worst
        if "classes" in v
    ]
    head = ["video", "label", "predicted as", "probability, %"]
    return html.table(head, rows, kind="text") if rows else ""


def _settings(values: Mapping[str, str], fold: str = "All settings") -> str:
    if not values:
        return html.paragraph("It is not known.")
    shown = html.table(["key", "value"], list(values.items()), kind="text")
    return html.folded(fold, shown) if fold else shown


def _log(history: History) -> str:
    if not history.steps:
        return ""
    keys = list(dict.fromkeys(key for entry in history.steps for key in entry))
    numbers = [key for key in keys if key not in ("step", "time")]
    entries = facts.thinned(history.steps)
    rows = [[e["step"], *(facts.number(e.get(key)) for key in numbers)] for e in entries]
    return html.folded(
        f"{len(entries)} of {len(history.steps)} entries",
        html.table(["step", *(key.replace("_", " ") for key in numbers)], rows),
    )
