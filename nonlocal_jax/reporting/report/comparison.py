"""The page that compares runs."""

from collections.abc import Mapping
from functools import partial

from nonlocal_jax.reporting.history import Entry, History, is_number
from nonlocal_jax.reporting.report import charts, facts, html

Runs = Mapping[str, History]

OTHER_TASKS = "The runs have different tasks, so their scores and losses can't be compared."


def comparison(runs: Runs, links: Mapping[str, str]) -> str:
    """The page of several runs.

    Args:
      runs: their histories, by the names that the page gives them.
      links: the address of each run's own page.
    """
    several = f"{len(runs)} runs: {', '.join(runs)}"
    parts = [
        html.section("Summary", partial(_summary, runs)),
        html.paragraph(OTHER_TASKS) if _differ_in_task(runs) else "",
        f"<p>{' · '.join(_link(name, links[name]) for name in runs)}</p>",
        html.section("Evaluations", partial(_evaluations, runs)),
        html.section("Training", partial(_training, runs)),
        html.section("Scores of each class", partial(_classes, runs)),
        html.section("Differences of the configs", partial(_configs, runs)),
        html.section("Differences of the environments", partial(_environments, runs)),
    ]
    return html.page(several, parts)


def _link(name: str, address: str) -> str:
    return f'<a href="{html.text(address)}">{html.text(name)}</a>'


def _summary(runs: Runs) -> str:
    told = {name: facts.summary(history) for name, history in runs.items()}
    titles = dict.fromkeys(title for summary in told.values() for title in summary)
    rows = [[title, *(summary.get(title) for summary in told.values())] for title in titles]
    shown = [row for row in rows if any(cell is not None for cell in row[1:])]
    return html.table(["", *runs], shown, kind="text")


def _evaluations(runs: Runs) -> str:
    entries = {name: history.evaluations for name, history in runs.items()}
    names = facts.score_names([e for found in entries.values() for e in found])
    if not names:
        return html.paragraph("There is no evaluation yet.")
    found = [
        charts.lines(
            facts.TITLES.get(key, key),
            [facts.series(name, found, key) for name, found in entries.items()],
            percent=True,
        )
        for key in names[:2]
    ]
    return html.charts(*found) + _scores(runs)


def _scores(runs: Runs) -> str:
    """The main score of every evaluation."""
    columns = []
    for history in runs.values():
        key, entries = history.score, history.evaluations
        columns.append({entry["step"]: facts.percent(entry.get(key)) for entry in entries})
    steps = sorted({step for column in columns for step in column})
    rows = [[step, *(column.get(step) for column in columns)] for step in facts.thinned(steps)]
    titles = dict.fromkeys(facts.TITLES[history.score] for history in runs.values())
    return html.table(["step", *runs], rows, caption=f"{' or '.join(titles)} in percent")


def _training(runs: Runs) -> str:
    entries = {name: history.steps for name, history in runs.items()}
    rates = dict.fromkeys(filter(None, (facts.rate_key(found) for found in entries.values())))

    def chart(title: str, key: str, *, percent: bool = False, log: bool = False) -> str:
        lines = [facts.series(name, found, key) for name, found in entries.items()]
        return charts.lines(title, lines, percent=percent, log=log)

    found = [
        chart("Training loss", "loss", log=True),
        chart("Accuracy on training batches", "accuracy", percent=True),
        chart("Learning rate", "learning_rate"),
        *(chart(facts.rate_title(rate), rate) for rate in rates),
    ]
    if not any(found):
        return html.paragraph("No training step is in the logs.")
    return html.charts(*found)


def _classes(runs: Runs) -> str:
    """The score of each class in the best evaluation of each run."""
    columns = {name: _of_best(history) for name, history in runs.items()}
    if not any(columns.values()):
        return html.paragraph("No log has scores of classes.")
    classes = dict.fromkeys(key for column in columns.values() for key in column)
    rows: list[list[object]] = [
        [name, *(facts.percent(column.get(name)) for column in columns.values())]
        for name in classes
    ]
    head = ["class", *runs]
    if len(runs) == 2 and not _differ_in_task(runs):
        head.append("second - first")
        one, other = columns.values()
        for row in rows:
            row.append(_difference(one.get(str(row[0])), other.get(str(row[0]))))
    return html.table(head, rows, caption="In percent, in the best evaluation of each run")


def _of_best(history: History) -> Entry:
    found = (history.best or {}).get(history.by_class)
    return found if isinstance(found, Mapping) else {}


def _difference(one: object, other: object) -> str | None:
    if not (is_number(one) and is_number(other)):
        return None
    # Of the rounded numbers, which stand beside it.
    return f"{round(100 * float(other), 2) - round(100 * float(one), 2):+.2f}"


def _configs(runs: Runs) -> str:
    rows = facts.differences({name: facts.flat_config(h) for name, h in runs.items()})
    if not rows:
        return html.paragraph("All settings are the same.")
    note = ""
    if _differ_in_task(runs):
        rows = [row for row in rows if None not in row]
        note = html.paragraph("Settings that only one of the tasks has are left out.")
    return note + html.table(["key", *runs], rows, kind="text")


def _differ_in_task(runs: Runs) -> bool:
    return len({history.setting("task") or "segmentation" for history in runs.values()}) > 1


def _environments(runs: Runs) -> str:
    named = {name: facts.flat_environment(history) for name, history in runs.items()}
    rows = [row for row in facts.differences(named) if row[0] not in ("command", "time")]
    if not rows:
        return html.paragraph("Versions, devices and sources are the same.")
    return html.table(["", *runs], rows, kind="text")
