"""Downloads published checkpoints: resumed after an interruption, cached, and checked."""

import http.client
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from nonlocal_jax.checkpoints.pytorch import torch_file
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.files import cache_folder

_PRETRAINED = "https://download.openmmlab.com/pretrain/third_party"
_TORCHVISION = "https://download.pytorch.org/models"
# ImageNet weights that training starts from.
BACKBONES = {
    "resnet18_v1": f"{_TORCHVISION}/resnet18-f37072fd.pth",
    "resnet34_v1": f"{_TORCHVISION}/resnet34-b627a593.pth",
    "resnet50_v1": f"{_TORCHVISION}/resnet50-0676ba61.pth",
    "resnet101_v1": f"{_TORCHVISION}/resnet101-63fe2227.pth",
    "resnet152_v1": f"{_TORCHVISION}/resnet152-394f9c45.pth",
    "resnet18_v1c": f"{_PRETRAINED}/resnet18_v1c-b5776b93.pth",
    "resnet50_v1c": f"{_PRETRAINED}/resnet50_v1c-2cccc1ad.pth",
    "resnet101_v1c": f"{_PRETRAINED}/resnet101_v1c-e67eebb6.pth",
}
# Eight hex digits at the end of a name are its hash, unless they are a date: "model-20240131.pth".
HASH_IN_NAME = re.compile(r"-(?!(?:19|20)\d\d[01]\d[0-3]\d)([0-9a-f]{8})\.pth$")
TIMEOUT_SECONDS = 30
ATTEMPTS = 4
CHUNK_BYTES = 1 << 18


def fetch(url: str, directory: Path | None = None) -> Path:
    """Returns the path of the file at `url`, downloading it unless it is in the cache.

    An interrupted download leaves NAME.part, which the next call continues.

    Raises:
      UserError: no connection, no such file, or the content is not what the name's hash says.
    """
    if not url.startswith(("https://", "http://")):
        raise UserError(f"{url!r} is not the address of a file; it must begin with https://.")
    directory = directory or cache_folder()
    target = directory / url.rpartition("/")[2]
    if target.exists() and _hash_problem(target, target.name) is None:
        return target
    part = target.with_name(target.name + ".part")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _download(url, part)
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{url} cannot be downloaded to {directory}: {reason}. Try again (it resumes where it "
            "stopped), or download it elsewhere and give it as --input=FILE.pth."
        ) from error
    problem = _hash_problem(part, target.name)
    if problem:
        part.unlink()
        raise UserError(f"What {url} gave was deleted: {problem}. Try again.")
    part.replace(target)
    return target


def check_hash(path: Path) -> None:
    """Checks the hash in a name like `x-1234abcd.pth`. Other names are not checked.

    Raises:
      UserError: the content has another hash.
    """
    problem = _hash_problem(path, path.name)
    if problem:
        raise UserError(f"{path} is damaged or was changed: {problem}. Get it again.")


def _hash_problem(path: Path, name: str) -> str | None:
    expected = HASH_IN_NAME.search(name)
    digest = torch_file.sha256(path)[:8]
    if expected is None or digest == expected[1]:
        return None
    return f"its SHA-256 begins with {digest}, not with the {expected[1]} of its name"


def _download(url: str, part: Path) -> None:
    for attempt in range(ATTEMPTS):
        try:
            _continue(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            # The part is as long as the file or longer. The hash shows whether it is the file.
            return
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS - 1:
                raise OSError(str(getattr(error, "reason", error))) from error
            time.sleep(attempt)


def _continue(url: str, part: Path) -> None:
    """Appends the rest to `part`, or starts over if the server can't resume."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            start = 0
        total = start + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if start else "wb") as file:
            _copy(response, file, start, total, url.rpartition("/")[2])
        if part.stat().st_size < total:
            raise OSError("the connection broke off")


def _copy(
    response: http.client.HTTPResponse, file: BinaryIO, done: int, total: int, name: str
) -> None:
    """Copies with a progress bar: one moving line in a terminal, a line per tenth elsewhere."""
    terminal = sys.stderr.isatty()
    begin, start, shown = time.monotonic(), done, -1
    while chunk := response.read(CHUNK_BYTES):
        file.write(chunk)
        done += len(chunk)
        percent = 100 * done // total if total else 0
        if percent > shown if terminal else percent // 10 > shown // 10:
            shown = percent
            rate = (done - start) / max(time.monotonic() - begin, 1e-3) / 1e6
            bar = "#" * (percent // 5)
            line = f"{name} [{bar:<20}] {percent:3d}% of {total / 1e6:.1f} MB, {rate:.1f} MB/s"
            sys.stderr.write(f"\r{line}" if terminal else f"{line}\n")
            sys.stderr.flush()
    if terminal:
        sys.stderr.write("\n")
