"""Reads pickled data without pickle: it builds plain containers and descriptions of tensors only.

A pickle is a program for a stack machine, and some of its instructions call functions that the file
names. This reader knows only the instructions that build data. It never imports a name in the file:
pickle_names.py holds the known names and their replacements.

It reads all protocols, those of Python 2 included (Caffe2's files), whose byte strings become text
with a character for each byte.
"""

import codecs
import io
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nonlocal_jax.checkpoints.pytorch import pickle_names
from nonlocal_jax.checkpoints.pytorch.pickle_names import (
    FormatError,
    NumpyArray,
    NumpyType,
    Storage,
    Unknown,
    printable,
)

# A published file has 30 thousand instructions, and one byte of pickle can create a 64-byte object.
# A file with more than this is no checkpoint, but may fill the memory.
MAX_INSTRUCTIONS = 2_000_000
MAX_INTEGER_BITS = 128


@dataclass(frozen=True)
class Loaded:
    """A pickle's value, and the storages that its tensors view, by key.

    The value nests None, bool, int, float, str, bytes, list, tuple, dict, OrderedDict, TensorView,
    Storage, Name, NumpyType, NumpyArray, Encoded and Unknown in any way the file likes: shared or
    even cyclic.
    """

    value: object
    storages: dict[str, Storage]


def load(stream: io.BytesIO) -> Loaded:
    """Reads the pickle at the position of the stream, which is then behind the pickle.

    Raises:
      FormatError: the pickle is damaged, or has an instruction that no data needs.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument) in enumerate(_instructions(stream)):
            if count > MAX_INSTRUCTIONS:
                raise FormatError(f"its pickle has more than {MAX_INSTRUCTIONS} instructions")
            machine.step(opcode, argument)
    except (ValueError, OverflowError, MemoryError) as error:
        # pickletools' answers to truncated and malformed instructions.
        raise FormatError(f"its pickle is cut off or damaged ({printable(str(error))})") from error
    return Loaded(machine.result(), machine.storages)


def _instructions(stream: io.BytesIO) -> Iterator[tuple[str, object]]:
    """Names and arguments of the instructions, up to STOP.

    pickletools reads them, except the byte strings of protocol 0: it takes ASCII only.
    """
    name = ""
    while name != "STOP":
        code = stream.read(1).decode("latin1")
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise ValueError(f"unknown instruction {code!r}" if code else "it ends before STOP")
        name = opcode.name
        if name == "STRING":
            yield name, _quoted(stream.readline())
        else:
            yield name, None if opcode.arg is None else opcode.arg.reader(stream)


def _quoted(line: bytes) -> str:
    """The text of a line like b"'res2\\x00'\\n", as Python 2 writes its byte strings."""
    text = line.removesuffix(b"\n")
    if len(line) == len(text) or len(text) < 2 or text[:1] not in (b"'", b'"'):
        raise ValueError("a string has no quotes")
    if text[:1] != text[-1:]:
        raise ValueError("a string has no closing quote")
    decoded: bytes = codecs.escape_decode(text[1:-1])[0]
    return decoded.decode("latin1")


class _Machine:
    """The stack, its marks, and the memo of already built objects."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}

    def step(self, opcode: str, argument: object) -> None:
        if opcode in _ARGUMENT:
            self._push(_bounded(argument))
        elif opcode in _CONSTANT:
            self._push(_CONSTANT[opcode]())
        elif opcode in _TUPLE_SIZE:
            self._push(tuple(self._pop_many(_TUPLE_SIZE[opcode])))
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            raise _needless(opcode)

    def result(self) -> object:
        value = self._pop()
        if self._stack or self._marks:
            raise FormatError("its pickle is damaged: values are left over")
        return value

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> object:
        return self._pop_many(1)[0]

    def _pop_many(self, count: int) -> list[object]:
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) - floor < count:
            raise FormatError("its pickle is damaged: an instruction lacks its values")
        values = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return values

    def _pop_to_mark(self) -> list[object]:
        if not self._marks:
            raise FormatError("its pickle is damaged: an instruction lacks its mark")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _top(self) -> object:
        value = self._pop()
        self._push(value)
        return value

    def _mark(self, _: object) -> None:
        self._marks.append(len(self._stack))

    def _tuple(self, _: object) -> None:
        self._push(tuple(self._pop_to_mark()))

    def _append(self, values: list[object]) -> None:
        target = self._top()
        if isinstance(target, Unknown):
            return
        if not isinstance(target, list):
            raise FormatError("its pickle is damaged: it appends to something that is no list")
        target.extend(values)

    def _list(self, _: object) -> None:
        self._push(self._pop_to_mark())

    def _dict(self, _: object) -> None:
        values = self._pop_to_mark()
        self._push({})
        self._set_items(values)

    def _set_items(self, values: list[object]) -> None:
        target = self._top()
        if isinstance(target, Unknown):
            return
        if not isinstance(target, dict) or len(values) % 2:
            raise FormatError("its pickle is damaged: it sets items of something that is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | bytes | int | float | None):
                key = _OTHER_KEY
            target[key] = value

    def _store(self, index: object) -> None:
        # MEMOIZE has no argument: it takes the next number.
        self._memo[index if isinstance(index, int) else len(self._memo)] = self._top()

    def _recall(self, index: object) -> None:
        if not isinstance(index, int) or index not in self._memo:
            raise FormatError("its pickle is damaged: it refers to a value it has not built")
        self._push(self._memo[index])

    def _name(self, path: object) -> None:
        module, _, name = str(path).partition(" ")
        self._push(pickle_names.named(module, name))

    def _name_from_stack(self, _: object) -> None:
        module, name = self._pop_many(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise FormatError("its pickle is damaged: a name is not text")
        self._push(pickle_names.named(module, name))

    def _call(self, _: object) -> None:
        self._push(pickle_names.call(*self._pop_many(2)))

    def _new(self, opcode: str, values: list[object]) -> None:
        """An instance of a class, which the first value names, from the other ones."""
        if not values or not isinstance(values[0], Unknown):
            raise _needless(opcode)
        self._push(values[0])

    def _empty_set(self, _: object) -> None:
        self._push(pickle_names.named("builtins", "set"))

    def _frozen_set(self, _: object) -> None:
        self._pop_to_mark()
        self._push(pickle_names.named("builtins", "frozenset"))

    def _add(self, _: object) -> None:
        self._pop_to_mark()
        if not isinstance(self._top(), Unknown):
            raise FormatError("its pickle is damaged: it adds to something that is no set")

    def _build(self, _: object) -> None:
        target, state = self._pop_many(2)
        if isinstance(target, NumpyType):
            pickle_names.set_byte_order(target, state)
        elif isinstance(target, NumpyArray):
            pickle_names.set_array(target, state)
        elif not isinstance(target, OrderedDict | Unknown):
            raise FormatError(
                "its pickle sets attributes of a plain value, which no checkpoint needs"
            )
        # A state dict's attributes (module versions) say nothing about its tensors.
        self._push(target)

    def _storage(self, _: object) -> None:
        storage = pickle_names.storage(self._pop())
        self._push(storage)
        if isinstance(storage, Unknown):
            return
        if self.storages.setdefault(storage.key, storage) != storage:
            raise FormatError("its pickle describes one storage in two ways")


def _needless(opcode: str) -> FormatError:
    return FormatError(f"its pickle uses the instruction {opcode}, which no checkpoint needs")


# In the place of a dict's key of another type. Hashing one may take for ever.
_OTHER_KEY = Unknown("a dict's key", "its pickle has a dict key that is neither text nor a number")
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_ARGUMENT = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("STRING", "UNICODE", "INT", "LONG", "FLOAT"),
}
_CONSTANT: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_TUPLE_SIZE = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ACTIONS: dict[str, Callable[[_Machine, object], None]] = {
    "MARK": _Machine._mark,
    "TUPLE": _Machine._tuple,
    "LIST": _Machine._list,
    "DICT": _Machine._dict,
    "APPEND": lambda machine, _: machine._append([machine._pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._pop_to_mark()),
    "SETITEM": lambda machine, _: machine._set_items(machine._pop_many(2)),
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_to_mark()),
    "PUT": _Machine._store,
    "BINPUT": _Machine._store,
    "LONG_BINPUT": _Machine._store,
    "MEMOIZE": _Machine._store,
    "GET": _Machine._recall,
    "BINGET": _Machine._recall,
    "LONG_BINGET": _Machine._recall,
    "GLOBAL": _Machine._name,
    "STACK_GLOBAL": _Machine._name_from_stack,
    "REDUCE": _Machine._call,
    "NEWOBJ": lambda machine, _: machine._new("NEWOBJ", machine._pop_many(2)),
    "NEWOBJ_EX": lambda machine, _: machine._new("NEWOBJ_EX", machine._pop_many(3)),
    "OBJ": lambda machine, _: machine._new("OBJ", machine._pop_to_mark()),
    "EMPTY_SET": _Machine._empty_set,
    "ADDITEMS": _Machine._add,
    "FROZENSET": _Machine._frozen_set,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._storage,
}


def _bounded(value: object) -> object:
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise FormatError(f"its pickle holds an integer of more than {MAX_INTEGER_BITS} bits")
    return value
