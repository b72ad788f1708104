"""What a run's time is spent on: the buckets of goodput, in a table."""

from collections.abc import Mapping

FILE = "goodput.json"  # in a run's folder: "seconds" by bucket
STEPS, REPEATED, INPUT = "steps", "repeated", "input"
BUCKETS = {
    STEPS: "training steps",
    REPEATED: "steps done again after a restart",
    INPUT: "waiting for input",
    "compiling": "compiling the train step",
    "saving": "saving",
    "evaluating": "evaluating, and precise norms",
    "starting": "starting and restoring",
    "down": "not running",
}
HEAD = ("time of this run", "seconds", "share")


def rows(seconds: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """What, seconds, and share of each bucket that has any time."""
    total = max(sum(seconds.values()), 1e-9)
    return [
        (what, f"{seconds[name]:.1f}", f"{seconds[name] / total:.1%}")
        for name, what in BUCKETS.items()
        if seconds[name] > 0
    ]


def table(seconds: Mapping[str, float]) -> str:
    """The rows as text under their titles."""
    return "\n".join(
        f"{what:<34}{spent:>10}{share:>8}" for what, spent, share in (HEAD, *rows(seconds))
    )
