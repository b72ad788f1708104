"""Run folders with a log and no checkpoint, as training writes them, and what a page holds."""

import html.parser
import json
import math

from nonlocal_jax.reporting import time_spent

NAMES = ("sky", "</script><b>x", "$100_$ bill", "_road", "car")
VOID = {"meta", "img", "br", "path", "use", "line", "rect"}
CONFIG = {
    "task": "segmentation",
    "total_steps": 40,
    "batch_size": 8,
    "data": {"name": "camvid", "crop_size": [4, 8]},
    "optimizer": {"learning_rate": 0.01},
}
SECONDS = dict.fromkeys(time_spent.BUCKETS, 0.0) | {"steps": 30.0, "saving": 10.0}


def scores(step, names=NAMES):
    """IoU by class, between 0 and 1; the third class is absent."""
    values = [(step + 7 * label) % 97 / 100 for label in range(len(names))]
    return {n: None if i == 2 else v for i, (n, v) in enumerate(zip(names, values, strict=True))}


def miou(step, names=NAMES):
    known = [value for value in scores(step, names).values() if value is not None]
    return sum(known) / len(known)


def write_run(folder, *, names=NAMES, until=40, old=False, video=False, **settings):
    """A run that logs every 10 steps and evaluates every 20. `old`: as version 0.1 wrote it."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(10, until + 1, 10):
        entry = {"step": step, "loss": math.exp(-step / 9), "accuracy": 0.5, "learning_rate": 0.1}
        lines.append({**entry, "images_per_second": 4.0})
        if step % 20 == 0:
            found = {"top1": 0.25, "top5": 0.5} if video else {"aacc": 0.9, "miou": miou(step)}
            key = "top1_by_class" if video else "iou"
            lines.append({"step": step, **found} | ({} if old else {key: scores(step, names)}))
            if not old:
                record = {"step": step, **found, **_details(step, names, video)}
                (folder / "evaluations").mkdir(exist_ok=True)
                (folder / "evaluations" / f"{step}.json").write_text(json.dumps(record))
    if not old:
        lines = [{**line, "time": 1.7e9 + line["step"]} for line in lines]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    config = {**CONFIG, "task": "video" if video else "segmentation", **settings}
    (folder / "config.json").write_text(json.dumps({"format": 2, "config": config}))
    environment = {"packages": {"jax": "0.10"}, "devices": "1 x <cpu>", "command": ["a", "b"]}
    (folder / "environment.json").write_text(json.dumps(environment))
    if not old:
        (folder / "goodput.json").write_text(json.dumps({"seconds": SECONDS}))
    return folder


def _details(step, names, video):
    key = "top1" if video else "iou"
    classes = [{"name": name, key: value} for name, value in scores(step, names).items()]
    count = len(names)
    confusion = [[90 if i == j else (i + 2 * j) % 7 for j in range(count)] for i in range(count)]
    worst = [{"name": "a<b>.png", "accuracy": 0.125}]
    if video:
        worst = [{"name": "v.mp4", "label": names[0], "classes": [names[1]], "probabilities": [1]}]
    return {"classes": classes, "confusion": confusion, "worst": worst}


class Page(html.parser.HTMLParser):
    """What a page holds: its tags, texts, tables, and what it would load.

    Attributes:
      headings: texts of h1 to h3.
      tables: by caption; rows of cells. `all_tables` has those without one, too.
      loads: addresses outside of the page.
      ids: of elements.
      undescribed: pictures without a description.
    """

    def __init__(self, path):
        super().__init__()
        self.text = path.read_text()
        self.headings, self.tables, self.loads, self.ids, self.undescribed = [], {}, [], [], []
        self.tags, self.links, self.all_tables = set(), [], []
        self._open, self._rows, self._caption, self._cell = [], None, "", None
        self.feed(self.text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.ids += [given["id"]] if "id" in given else []
        if tag == "a":
            self.links.append(given.pop("href"))
        for key in ("src", "href", "xlink:href"):
            address = given.get(key, "#")
            if not address.startswith(("#", "data:")):
                self.loads.append(address)
        if tag == "img" and not given.get("alt"):
            self.undescribed.append(tag)
        if tag == "svg" and not (given.get("aria-label") or given.get("aria-hidden")):
            self.undescribed.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:  # SVG closes some of them
            return
        assert self._open and self._open[-1] == tag, (tag, self._open)
        self._open.pop()
        if tag == "table":
            self.tables[self._caption] = self._rows
            self.all_tables.append(self._rows)

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ""
        if inside in ("td", "th"):
            self._rows[-1][-1] += data
        elif inside == "caption":
            self._caption += data
        elif inside in ("h1", "h2", "h3"):
            self.headings[-1] += data
