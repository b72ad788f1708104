"""A lock that allows one run in a workdir. It is free again once its owner has died.

The file `.lock` names the owner. On the same machine, its process is looked up. From another
machine or container, the file is watched: a living owner touches it every few seconds. That works
on a network disk, too, and if clocks differ.
"""

import contextlib
import json
import os
import pathlib
import platform
import threading
import time
from collections.abc import Iterator
from typing import Any

from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.console import say

NAME = ".lock"
TOUCH_SECONDS = 5.0
WATCH_SECONDS = 30.0  # time for several touches, and for a network disk to show them

Owner = dict[str, Any]


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder against other processes, inside the context.

    Raises:
      UserError: another living process holds the lock, or the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / NAME
        while not _create(file):
            _take_from_the_dead(file)
    except OSError as error:
        raise UserError(
            f"Cannot use {folder} as the workdir: {error}. Choose another with --workdir."
        ) from error
    ended = threading.Event()
    thread = threading.Thread(target=_touch, args=(file, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if _read(file) == _me():
            file.unlink(missing_ok=True)


def _me() -> Owner:
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        **_machine(),
        "started": _started(os.getpid()),
    }


def _machine() -> Owner:
    """The scope of process numbers: this boot of this machine, and its container."""
    facts = {}
    with contextlib.suppress(OSError):
        facts["boot"] = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        facts["processes"] = os.readlink("/proc/self/ns/pid")
    return facts


def _started(pid: int) -> str:
    """The start time of a process, which shows if its number is reused; empty if it is gone."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A container's first process may never collect those that ended: zombies.
        return "" if state[0] in "ZX" else state[19]
    except (OSError, IndexError):
        return ""


def _create(file: pathlib.Path) -> bool:
    """Creates the lock atomically. Returns whether it belongs to this process now."""
    mine = file.with_name(f"{NAME}.{platform.node()}.{threading.get_native_id()}")
    mine.write_text(json.dumps(_me()))
    try:
        os.link(mine, file)
    except FileExistsError:
        return False
    finally:
        mine.unlink()
    return True


def _take_from_the_dead(file: pathlib.Path) -> None:
    """Removes a lock whose owner is gone.

    Raises:
      UserError: the owner lives.
    """
    owner = _read(file)
    if owner is None:  # it is gone, or damaged and without owner
        file.unlink(missing_ok=True)
        return
    here = _machine()
    if here and all(owner.get(key) == value for key, value in here.items()):
        lives = bool(owner.get("started")) and _started(int(owner["pid"])) == owner["started"]
    else:
        lives = _is_touched(file)
    if lives:
        raise UserError(
            f"{file.parent} is in use by process {owner['pid']} on {owner['host']}. Wait for it, "
            "stop it, or choose another --workdir."
        )
    aside = file.with_name(f"{NAME}.dead.{platform.node()}.{threading.get_native_id()}")
    with contextlib.suppress(FileNotFoundError):
        file.rename(aside)
        if _read(aside) != owner:  # another process was faster
            with contextlib.suppress(FileExistsError):
                os.link(aside, file)
        aside.unlink()


def _is_touched(file: pathlib.Path) -> bool:
    """Whether the lock is touched."""
    say(f"{file.parent} has the lock of another machine: watching whether its owner lives ...")
    before, deadline = _touched(file), time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.5)
        if _touched(file) != before:
            return _touched(file) is not None
    return False


def _touched(file: pathlib.Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def _touch(file: pathlib.Path, ended: threading.Event) -> None:
    while not ended.wait(TOUCH_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(file)


def _read(file: pathlib.Path) -> Owner | None:
    try:
        owner = json.loads(file.read_text())
        return {**owner, "pid": int(owner["pid"]), "host": str(owner["host"])}
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
