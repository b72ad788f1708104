"""The number of cores that this process may use."""

import os
import pathlib

_CGROUP = pathlib.Path("/sys/fs/cgroup")


def usable() -> int:
    """The number of cores by machine, process affinity and container; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS
        cores = os.cpu_count() or 1
    return max(min(cores, _container_limit(_CGROUP) or cores), 1)


def _container_limit(cgroup: pathlib.Path) -> int | None:
    """The cores of a container's quota, rounded up; None without a quota."""
    try:
        if (version_2 := cgroup / "cpu.max").is_file():
            quota, period = version_2.read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        microseconds, of = int(quota), int(period)  # "max" is no number
    except (OSError, ValueError):
        return None
    return -(-microseconds // of) if microseconds > 0 < of else None
