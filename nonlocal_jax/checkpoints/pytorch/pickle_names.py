"""The names that a pickle may use: storages of tensors, and a few functions. None is imported.

Each function of PyTorch or NumPy that the pickle of a checkpoint calls has a replacement here. It
checks every argument, and builds plain data or the description of a tensor. All other names, and
what the file makes of them, become an `Unknown`: nothing is run, and nothing is made.
"""

import math
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np

MAX_RANK = 16
MAX_ENCODED_BYTES = 1024

STORAGE_MODULES = ("torch", "torch.cuda")
STORAGE_TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


DTYPES = {
    name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    for name in STORAGE_TYPES.values()
}


class FormatError(Exception):
    """An error in the content of a file. The caller adds the name of the file."""


@dataclass(frozen=True)
class Storage:
    """A flat array whose values are elsewhere in the file, under `key`."""

    dtype: str
    key: str
    size: int


@dataclass(frozen=True)
class TensorView:
    """A tensor as PyTorch describes it: a strided view of a storage, all counted in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Name:
    """A function or class that the file names."""

    module: str
    name: str


@dataclass(frozen=True)
class Unknown:
    """Stands for an object of the pickle that is not rebuilt. Weights that need it are refused.

    Attributes:
      what: it is, for people: "datetime.datetime".
      reason: why a file is refused whose weights need it.
    """

    what: str
    reason: str


@dataclass
class NumpyType:
    """The type of a pickled NumPy scalar. BUILD sets its byte order later."""

    code: str
    order: str = "<"


@dataclass(frozen=True)
class Encoded:
    """Bytes that are still text: the file encodes them in a later instruction."""

    text: str


@dataclass
class NumpyArray:
    """A pickled NumPy array, such as a PALETTE. BUILD sets its values later.

    Attributes:
      unknown: the type of its values, if it is not known; then there are no values.
    """

    shape: tuple[int, ...] = ()
    dtype: np.dtype | None = None
    fortran: bool = False
    data: bytes | Encoded = b""
    unknown: Unknown | None = None


def printable(text: str) -> str:
    """Text from an untrusted file, short and without control characters."""
    return ascii(text)[1:-1][:100]


def _natural(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**48:
        raise FormatError("its pickle is damaged: a size is not a sensible number")
    return value


def _naturals(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > MAX_RANK:
        raise FormatError("its pickle is damaged: a tensor's shape is not a short tuple")
    return tuple(_natural(value) for value in values)


def _tensor(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    requires_grad: object,
    hooks: object,
    flags: object = None,
) -> TensorView | Unknown:
    """torch._utils._rebuild_tensor_v2, without requires_grad and hooks.

    The bounds are checked here, before any array exists: a stride of 0 can turn one number into
    petabytes, and a negative or long stride points outside the storage.
    """
    if not isinstance(storage, Storage):
        raise FormatError("its pickle is damaged: a tensor has no storage")
    if flags:
        return Unknown(
            "a negated or conjugated view",
            "a tensor is a negated or conjugated view, whose stored values have another sign; call "
            "resolve_neg().resolve_conj() before saving it",
        )
    view = TensorView(storage, _natural(offset), _naturals(shape), _naturals(strides))
    if len(view.shape) != len(view.strides):
        raise FormatError("its pickle is damaged: a tensor's shape and strides disagree")
    size = 1
    for length in view.shape:
        size *= length
    last = view.offset + sum(
        (n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True)
    )
    if size > storage.size or (size and last >= storage.size):
        raise FormatError(
            f"a tensor of shape {view.shape} does not fit its storage of {storage.size} values"
        )
    return view


def _parameter(data: object, *_: object) -> TensorView:
    """torch._utils._rebuild_parameter: the tensor itself."""
    if not isinstance(data, TensorView):
        raise FormatError("its pickle is damaged: a parameter has no tensor")
    return data


def _ordered_dict() -> OrderedDict[object, object]:
    """collections.OrderedDict, always empty here: its items follow as instructions."""
    return OrderedDict()


def _size(values: object) -> tuple[int, ...]:
    """torch.Size."""
    return _naturals(values)


def _numpy_type(code: object, *_: object) -> NumpyType | Unknown:
    """numpy.dtype of a real scalar, or of text."""
    if not isinstance(code, str) or not _NUMPY_CODE.fullmatch(code):
        reason = "its pickle holds a NumPy value that is not a plain number, nor text"
        return Unknown(f"NumPy's type {printable(str(code))}", reason)
    return NumpyType(code)


def set_byte_order(target: NumpyType, state: object) -> None:
    """The part of numpy.dtype.__setstate__ that matters to a scalar."""
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
    if order not in ("<", ">", "|", "="):
        raise FormatError("its pickle is damaged: a NumPy type has no byte order")
    target.order = str(order)


def _numpy_scalar(kind: object, data: object) -> object:
    """numpy.core.multiarray.scalar, as the Python number it stands for."""
    if isinstance(data, str | Encoded):
        data = _latin1(data if isinstance(data, Encoded) else Encoded(data))
    if not isinstance(kind, NumpyType) or not isinstance(data, bytes):
        raise FormatError("its pickle is damaged: a NumPy number has no type or no value")
    dtype = np.dtype(kind.order + kind.code)
    if len(data) != dtype.itemsize:
        raise FormatError("its pickle is damaged: a NumPy number has the wrong size")
    _check_letters(data, dtype)
    return np.frombuffer(data, dtype)[0].item()


def _numpy_array(kind: object, shape: object, code: object) -> NumpyArray:
    """numpy.core.multiarray._reconstruct, always empty."""
    if not isinstance(kind, Name) or kind.name != "ndarray":
        raise FormatError("its pickle is damaged: a NumPy array is of another class")
    return NumpyArray()


def set_array(target: NumpyArray, state: object) -> None:
    """numpy.ndarray.__setstate__ of an array of plain numbers, or of texts."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise FormatError("its pickle is damaged: a NumPy array has no state")
    _, shape, kind, fortran, data = state
    if isinstance(kind, Unknown):
        target.unknown = kind
        return
    if isinstance(data, str):  # a byte string of Python 2
        data = Encoded(data)
    if not isinstance(kind, NumpyType) or not isinstance(data, bytes | Encoded):
        raise FormatError("its pickle holds a NumPy array that is not of plain numbers")
    target.shape, target.dtype = _naturals(shape), np.dtype(kind.order + kind.code)
    target.fortran, target.data = bool(fortran), data
    length = len(data.text) if isinstance(data, Encoded) else len(data)
    if length != math.prod(target.shape) * target.dtype.itemsize:
        raise FormatError("its pickle is damaged: a NumPy array has the wrong size")


def array_values(array: NumpyArray) -> object:
    """The numbers or texts of an array, as nested lists."""
    return to_numpy(array).tolist()


def to_numpy(array: NumpyArray) -> np.ndarray:
    """The array itself, read-only."""
    if array.unknown:
        raise FormatError(array.unknown.reason)
    if array.dtype is None:
        raise FormatError("its pickle is damaged: a NumPy array has no content")
    data = _latin1(array.data) if isinstance(array.data, Encoded) else array.data
    _check_letters(data, array.dtype)
    order: Literal["F", "C"] = "F" if array.fortran else "C"
    try:
        return np.frombuffer(data, array.dtype).reshape(array.shape, order=order)
    except ValueError as error:
        raise FormatError(f"a NumPy array's shape {array.shape} is not possible") from error


def _check_letters(data: bytes, dtype: np.dtype) -> None:
    """Refuses numbers that stand for no letter, at which NumPy raises a SystemError."""
    if dtype.kind == "U" and np.any(np.frombuffer(data, f"{dtype.byteorder}u4") > sys.maxunicode):
        raise FormatError("its pickle is damaged: a NumPy text has impossible letters")


def _latin1(text: Encoded) -> bytes:
    try:
        return text.text.encode("latin1")
    except UnicodeEncodeError as error:
        raise FormatError("its pickle is damaged: a NumPy array's bytes are none") from error


def _encode(text: object, codec: object) -> bytes | Encoded:
    """_codecs.encode, which is how old pickles write bytes."""
    if codec != "latin1" or not isinstance(text, str):
        raise FormatError("its pickle encodes bytes in a way that is not known")
    # One instruction can repeat a text that is already there: a long one is not copied.
    return Encoded(text) if len(text) > MAX_ENCODED_BYTES else text.encode("latin1")


# Numbers, and texts of a fixed length.
_NUMPY_CODE = re.compile("f[248]|b1|[iu][1248]|U[1-9][0-9]{0,4}")
# What a pickle may call: the replacement, and the number of arguments of the original.
_CALLS: dict[str, tuple[Callable[..., object], tuple[int, ...]]] = {
    "collections OrderedDict": (_ordered_dict, (0,)),
    "torch Size": (_size, (1,)),
    "torch._utils _rebuild_tensor_v2": (_tensor, (6, 7)),
    "torch._utils _rebuild_parameter": (_parameter, (3,)),
    "numpy dtype": (_numpy_type, (1, 2, 3)),
    "numpy.core.multiarray _reconstruct": (_numpy_array, (3,)),
    "numpy._core.multiarray _reconstruct": (_numpy_array, (3,)),
    "numpy.core.multiarray scalar": (_numpy_scalar, (2,)),
    "numpy._core.multiarray scalar": (_numpy_scalar, (2,)),
    "_codecs encode": (_encode, (2,)),
    "__builtin__ bytes": (bytes, (0,)),  # empty
}


def named(module: str, name: str) -> Name | Unknown:
    """What the file names: unknown, if it is not one of the few names that tensors need."""
    path = f"{module} {name}"
    if path not in (*_CALLS, "numpy ndarray") and not (
        module in STORAGE_MODULES and name in STORAGE_TYPES
    ):
        what = f"{printable(module)}.{printable(name)}"
        return Unknown(
            what,
            f"its pickle names {what}, which a checkpoint of tensors has no need of; it was "
            "refused and nothing was run",
        )
    return Name(module, name)


def call(function: object, arguments: object) -> object:
    """What the named function would have returned, as plain data.

    It is unknown if the function or an argument is.
    """
    given = arguments if isinstance(arguments, tuple) else ()
    for value in (function, *given):
        if isinstance(value, Unknown):
            return value
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise FormatError("its pickle is damaged: it calls something that is no function")
    stand_in, counts = _CALLS.get(f"{function.module} {function.name}", (None, ()))
    if stand_in is None or len(arguments) not in counts:
        raise FormatError(f"its pickle is damaged: it calls {function.name} in an unknown way")
    return stand_in(*arguments)


def storage(identity: object) -> Storage | Unknown:
    """The storage that a persistent id describes: ("storage", type, key, device, size)."""
    if not isinstance(identity, tuple) or not identity:
        raise FormatError("its pickle is damaged: a storage has no description")
    if identity[0] == "module":
        raise FormatError("it is a pickled model; save its state_dict() instead")
    # The 2020 form has a sixth value, which described views of storages before PyTorch 0.4.
    if identity[0] != "storage" or len(identity) not in (5, 6) or identity[5:] not in ((), (None,)):
        raise FormatError("its pickle describes a storage in a form that is not known")
    kind, key, size = identity[1], identity[2], identity[4]
    if isinstance(kind, Unknown):
        return kind
    if not isinstance(kind, Name) or kind.name not in STORAGE_TYPES or not isinstance(key, str):
        raise FormatError("its pickle describes a storage of a type that is not known")
    return Storage(STORAGE_TYPES[kind.name], key, _natural(size))
