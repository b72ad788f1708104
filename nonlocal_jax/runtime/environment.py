"""The environment of a run: versions, sources, devices, command."""

import functools
import hashlib
import importlib
import importlib.metadata
import pathlib
import platform
import subprocess
import sys
import time

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def describe() -> dict[str, object]:
    """The content of a run's environment.json."""
    device = jax.devices()[0]
    kind, platform_name = device.device_kind, device.platform
    name = kind if kind == platform_name else f"{kind} ({platform_name})"
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": versions(),
        "devices": f"{jax.device_count()} x {name}",
        "processes": jax.process_count(),
        "host": platform.node(),
        "commit": _commit(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def own_version() -> str:
    """The version of this package, whether it is installed or not."""
    return str(importlib.import_module("nonlocal_jax").__version__)


@functools.cache
def source_digest() -> str:
    """A digest of all Python files of this package."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _commit() -> str:
    """The commit of the sources; "unknown" without git or a repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=PACKAGE, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
