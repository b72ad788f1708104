"""Downloads a hub folder from the Hugging Face hub."""

import re
from pathlib import Path

from nonlocal_jax.checkpoints.hub.files import CARD, CONFIG, WEIGHTS
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.packages import need

NAME = re.compile(r"[a-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?", re.ASCII | re.IGNORECASE)


def is_repository(path: str) -> bool:
    """Whether "org/name" or "org/name@revision" means a repository of the hub, not a path here.

    It does if neither that path nor its first folder exists.
    """
    return bool(NAME.fullmatch(path)) and not any(map(_exists, (path, path.partition("/")[0])))


def fetch(name: str) -> Path:
    """The folder of a repository: downloaded, or from the cache of huggingface_hub.

    Args:
      name: "org/name", or "org/name@revision" with a branch, tag or commit.

    Raises:
      UserError: huggingface_hub is not installed, the repository can't be read, or it is of another
        library.
    """
    missing = f"There is no checkpoint {name}: train one, or `convert` one first"
    need(f"{missing}; a download from the Hugging Face hub", "hub", "huggingface_hub")
    import huggingface_hub

    repository, _, revision = name.partition("@")
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=[WEIGHTS, CONFIG, CARD]
        )
    except Exception as error:  # of the library, its HTTP client, or the file system
        raise UserError(_reason(name, error)) from error
    if not (Path(folder) / WEIGHTS).is_file():
        raise UserError(
            f"{name} of the Hugging Face hub is no model of nonlocal_jax: it has no {WEIGHTS}."
        )
    return Path(folder)


def _exists(path: str) -> bool:
    return Path(path).exists()


def _reason(name: str, error: Exception) -> str:
    from huggingface_hub import errors

    repository, _, revision = name.partition("@")
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repository} of the Hugging Face hub is gated: ask for access, and `hf auth login`."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"There is neither a folder {name} nor a public repository {repository} on the Hugging "
            "Face hub; if it is private, `hf auth login` with an account that may read it."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} of the Hugging Face hub has no revision {revision}."
    if isinstance(error, errors.HFValidationError):
        return f"There is no folder {name}, and the Hugging Face hub has no repositories so named."
    if isinstance(error, errors.LocalEntryNotFoundError | ConnectionError):
        return (
            f"There is no folder {name}, and the Hugging Face hub can't be reached: go online, or "
            "name a folder."
        )
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{name} can't be downloaded from the Hugging Face hub: {first}"
