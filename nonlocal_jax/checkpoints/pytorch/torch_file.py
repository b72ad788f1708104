"""Reads and writes PyTorch's checkpoint files without PyTorch, and without running code.

Two forms exist. Since PyTorch 1.6 a file is an uncompressed zip archive: `data.pkl` is a pickle
in which each tensor names a storage, and `data/KEY` holds that storage's bytes. Before (the files
published in 2020), it is a chain of pickles: a magic number, the protocol's version, the machine's
type sizes, the object, the list of storage keys; then each storage as its size and its bytes.
"""

import hashlib
import io
import os
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nonlocal_jax.checkpoints.pytorch import pickle_data, pickle_writer, safetensors_file
from nonlocal_jax.checkpoints.pytorch.pickle_names import DTYPES, FormatError, Storage, printable
from nonlocal_jax.checkpoints.pytorch.tree import finish
from nonlocal_jax.errors import UserError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
ZIP_MAGIC = b"PK\x03\x04"
# The largest published file of this family is below 0.6 GiB, with optimiser state twice that.
MAX_FILE_BYTES = 8 * 2**30
# A checkpoint of R-101 has 700 storages, whose list takes 60 kB.
MAX_DIRECTORY_BYTES = 8 * 2**20
ZIP_END, ZIP_END_OF_LARGE = b"PK\x05\x06", b"PK\x06\x06"
ZIP_END_BYTES = 2**16 + 22 + 20 + 56  # the longest comment, and the records around it


def read(path: str | os.PathLike[str]) -> object:
    """Returns what was saved, as nested dicts, lists and tuples of plain values and NumPy arrays.

    A file NAME.safetensors gives its tensors by name. Arrays are read-only; bfloat16 ones have
    ml_dtypes' type. NumPy numbers become Python's, and an OrderedDict a dict.

    Raises:
      UserError: the file is missing, truncated, damaged, no checkpoint, absurdly large, or holds
        anything but tensors and plain containers.
    """
    path = Path(path)
    check_file(path)
    kind = "safetensors file" if path.suffix == safetensors_file.SUFFIX else "PyTorch checkpoint"
    try:
        if path.suffix == safetensors_file.SUFFIX:
            return safetensors_file.read(path)
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        return _read_zip(path) if is_zip else _read_legacy(path.read_bytes())
    except FormatError as error:
        raise UserError(f"{path} cannot be read as a {kind}: {error}.") from error
    except (OSError, MemoryError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def write(path: str | os.PathLike[str], value: object, *, legacy: bool = False) -> None:
    """Writes a file that `torch.load` reads; `legacy` is the form before PyTorch 1.6.

    `value` nests dicts, OrderedDicts, lists, tuples, str, bytes, int, float, bool, None and NumPy
    arrays, which become tensors.

    Raises:
      UserError: a value that the file cannot hold, or the file cannot be written.
    """
    dumped = pickle_writer.dump(value, legacy=legacy)
    try:
        with Path(path).open("wb") as file:
            (_write_legacy if legacy else _write_zip)(file, dumped.pickle, dumped.arrays)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}.") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256 in hexadecimal, of which published names carry the first 8 digits.

    Raises:
      UserError: there is no such file, or it is none that could be a checkpoint.
    """
    path = Path(path)
    check_file(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def check_file(path: Path) -> None:
    """Raises a UserError if `path` is no file, empty, or larger than any checkpoint."""
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of one file.")
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path} is empty; download or copy it again.")
    if size > MAX_FILE_BYTES:
        raise UserError(
            f"{path} has {size / 2**30:.0f} GiB, more than any checkpoint of these models "
            f"({MAX_FILE_BYTES // 2**30} GiB are allowed)."
        )


def _read_legacy(data: bytes) -> object:
    stream = io.BytesIO(data)
    try:
        magic = pickle_data.load(stream).value
    except FormatError:
        magic = None
    if magic != MAGIC_NUMBER:
        raise FormatError("it does not start like one, or it is cut off after a few bytes")
    if pickle_data.load(stream).value != LEGACY_VERSION:
        raise FormatError("its version is not known")
    machine = pickle_data.load(stream).value
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise FormatError("it was written on a big-endian machine, which is not supported")
    loaded = pickle_data.load(stream)
    keys = pickle_data.load(stream).value
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FormatError("its list of storages is damaged")
    if sorted(keys) != sorted(loaded.storages):
        raise FormatError("its list of storages is not the one that its tensors need")
    return finish(loaded, _legacy_storages(data, stream.tell(), [loaded.storages[k] for k in keys]))


def _legacy_storages(data: bytes, start: int, storages: list[Storage]) -> dict[str, memoryview]:
    """Storages follow each other without an index: 8 bytes of size, then the values."""
    contents = {}
    for storage in storages:
        size = data[start : start + 8]
        if len(size) < 8 or struct.unpack("<q", size)[0] != storage.size:
            raise FormatError("it is cut off or damaged: a storage does not have its declared size")
        end = start + 8 + storage.size * DTYPES[storage.dtype].itemsize
        if end > len(data):
            raise FormatError("it is cut off: the last values are missing")
        contents[storage.key] = memoryview(data)[start + 8 : end]
        start = end
    if start != len(data):
        raise FormatError(f"it goes on for {len(data) - start} bytes after its last tensor")
    return contents


def _read_zip(path: Path) -> object:
    _check_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, path.stat().st_size)
    except zipfile.BadZipFile as error:
        raise FormatError(f"it is cut off or damaged ({printable(str(error))})") from error
    except _ZIP_ERRORS as error:
        raise FormatError("it is cut off or damaged: its zip archive is inconsistent") from error


def _check_directory(path: Path) -> None:
    """Refuses a zip's list of contents that is absurdly long, before zipfile reads it.

    The list's size stands at the end of the file, for large files in a record of its own.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - ZIP_END_BYTES))
        end = file.read()
    # As zipfile looks for it: without a comment, then with one.
    at = len(end) - 22 if end[-22:-18] == ZIP_END and end[-2:] == b"\0\0" else end.rfind(ZIP_END)
    if at < 0 or at + 22 > len(end):
        return  # zipfile says what is wrong
    size = struct.unpack_from("<I", end, at + 12)[0]
    if at >= 76 and end[at - 76 : at - 72] == ZIP_END_OF_LARGE:
        size = struct.unpack_from("<Q", end, at - 76 + 40)[0]
    if size > MAX_DIRECTORY_BYTES:
        raise FormatError("its zip archive lists more contents than any checkpoint has")


def _read_archive(archive: zipfile.ZipFile, file_size: int) -> object:
    entries = {entry.filename: entry for entry in archive.infolist()}
    _check_entries(archive.infolist(), file_size)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise FormatError("it is a zip archive, but holds no data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if root + "byteorder" in entries and archive.read(root + "byteorder") != b"little":
        raise FormatError("it was written on a big-endian machine, which is not supported")
    stream = io.BytesIO(archive.read(pickles[0]))
    loaded = pickle_data.load(stream)
    if stream.read(1):
        raise FormatError("its pickle goes on after its end")
    contents = {}
    for key, storage in loaded.storages.items():
        entry = entries.get(f"{root}data/{key}")
        if entry is None or entry.file_size != storage.size * DTYPES[storage.dtype].itemsize:
            raise FormatError("it is damaged: a storage is missing or has not its declared size")
        contents[key] = memoryview(archive.read(entry))
    return finish(loaded, contents)


def _check_entries(entries: list[zipfile.ZipInfo], file_size: int) -> None:
    """PyTorch never compresses: an archive that unpacks to more than its size is a bomb."""
    if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in entries):
        raise FormatError("its zip archive is compressed or encrypted, as PyTorch's never is")
    if any(e.file_size != e.compress_size for e in entries):
        raise FormatError("its zip archive is damaged: an entry has two sizes")
    if sum(e.file_size for e in entries) > file_size:
        raise FormatError("its zip archive declares more data than the file has")
    if len({e.filename for e in entries}) != len(entries):
        raise FormatError("its zip archive has two entries of the same name")


# What zipfile raises, besides BadZipFile, for directories that contradict themselves.
_ZIP_ERRORS = (
    ValueError,
    OverflowError,
    EOFError,
    KeyError,
    RuntimeError,  # also as its subclass for features that zipfile does not have
    struct.error,
)


def _write_legacy(file: BinaryIO, pickle: bytes, arrays: dict[str, np.ndarray]) -> None:
    sizes = {"short": 2, "int": 4, "long": 4}
    machine = {"protocol_version": LEGACY_VERSION, "little_endian": True, "type_sizes": sizes}
    for header in (MAGIC_NUMBER, LEGACY_VERSION, machine):
        file.write(pickle_writer.dump(header).pickle)
    file.write(pickle)
    file.write(pickle_writer.dump(list(arrays)).pickle)
    for array in arrays.values():
        file.write(struct.pack("<q", array.size))
        file.write(array.tobytes())


def _write_zip(file: BinaryIO, pickle: bytes, arrays: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            # A fixed date: the same tensors give the same file.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0)), content)

        add("data.pkl", pickle)
        add("byteorder", b"little")
        for key, array in arrays.items():
            add(f"data/{key}", array.tobytes())
        add("version", b"3\n")
