"""Collectives, memory traffic and memory use, from the text of a compiled program.

The texts are those of the TPU's compiler, for one chip: the scheduled program, in which `S(1)`
marks arrays in the chip's own memory, and the assignment of buffers.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Operations that move nothing: they rename values, or are counted where they start.
FREE = (
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "opt-barrier"),
    *("while", "conditional", "call", "async-start", "async-update"),
    *("after-all", "domain", "partition-id", "replica-id"),
)
SLICES = ("dynamic-slice", "slice", "gather")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|bf16|token|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%([\w.-]+)"
)
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program: `%name = shape operation(%operand, ...), rest`."""

    name: str
    shape: str
    operation: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """Names of what it reads."""
        return re.findall(r"%([\w.-]+)", _arguments(self.rest))

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        branches = _BRANCHES.search(self.rest)
        listed = re.findall(r"%([\w.-]+)", branches[1]) if branches else []
        return _CALLED.findall(self.rest) + listed


Computation = dict[str, Instruction]


class Program:
    """A compiled program's text, parsed.

    Args:
      text: as `jax.stages.Compiled.as_text()` and the compiler's dumps have it.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current: Computation = {}
        for line in text.splitlines():
            heading = _COMPUTATION.match(line)
            if heading:
                current = self.computations.setdefault(heading[2], {})
                self.entry = heading[2] if heading[1] else self.entry
            elif match := _INSTRUCTION.match(line):
                current[match[1]] = Instruction(*match.groups())

    def executed(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Every instruction that runs by itself, its computation, and how often it runs."""
        yield from self._executed(self.entry, 1)

    def _executed(self, name: str, times: int) -> Iterator[tuple[Computation, Instruction, int]]:
        computation = self.computations.get(name, {})
        for instruction in computation.values():
            yield computation, instruction, times
            if instruction.operation == "while":
                turns = self.turns(instruction)
                for inner in instruction.called:
                    yield from self._executed(inner, times * turns)
            elif instruction.operation in ("call", "conditional", "async-start"):
                for inner in instruction.called:
                    yield from self._executed(inner, times)

    def turns(self, loop: Instruction) -> int:
        """How often a `while` runs: the bound of its counter, which starts at 0; 1 if unknown."""
        condition = re.search(r"condition=%([\w.-]+)", loop.rest)
        names = [condition[1]] if condition else []
        limits = []
        for name in names:
            for instruction in self.computations.get(name, {}).values():
                names += instruction.called
                if instruction.operation == "constant" and instruction.shape.startswith("s32[]"):
                    limits.append(int(instruction.rest.partition(")")[0]))
        return max(limits, default=1)


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a step.

    Attributes:
      kind: such as "all-reduce".
      count: how many there are, those in a loop as often as it runs.
      bytes: of their results on one chip; of what goes in where that is larger.
      largest: bytes of the largest one.
    """

    kind: str
    count: int
    bytes: int
    largest: int


def collectives(program: Program) -> list[Collective]:
    """The collectives of a program, by kind."""
    found: dict[str, list[tuple[int, int]]] = {}
    for computation, instruction, times in program.executed():
        kind = instruction.operation.removesuffix("-start")
        if kind in COLLECTIVES:
            size = _collective_bytes(computation, instruction)
            found.setdefault(kind, []).append((size, times))
    return _by_kind(found)


def transfers(program: Program) -> list[Collective]:
    """What a device hands to the network between slices, by kind, such as "all-reduce".

    The compiler sums inside a slice first. Each device then hands over its part of the sum, or all
    of a small one.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for computation, instruction, times in program.executed():
        kind = _TRANSFER.search(instruction.rest)
        if instruction.operation == "send" and kind:
            name = kind[1].lower().replace("_", "-")
            size = array_bytes(computation[instruction.operands[0]].shape)
            found.setdefault(name, []).append((size, times))
    return _by_kind(found)


def _by_kind(found: dict[str, list[tuple[int, int]]]) -> list[Collective]:
    """From sizes and how often each runs."""
    return [
        Collective(
            kind,
            sum(times for _, times in sizes),
            sum(size * times for size, times in sizes),
            max(size for size, _ in sizes),
        )
        for kind, sizes in sorted(found.items())
    ]


def _collective_bytes(computation: Computation, instruction: Instruction) -> int:
    inputs = sum(
        array_bytes(computation[name].shape) for name in instruction.operands if name in computation
    )
    if instruction.operation.endswith("-start"):  # its shape lists the inputs, too
        return max(inputs, array_bytes(instruction.shape) - inputs)
    return max(inputs, array_bytes(instruction.shape))


def traffic(program: Program) -> int:
    """Bytes that a chip reads from and writes to its memory (HBM).

    What a fusion takes only a slice of counts as that slice.
    """
    total = 0
    for computation, instruction, times in program.executed():
        if instruction.operation in FREE or instruction.operation.endswith("-done"):
            continue
        if instruction.operation.endswith("-start"):  # the shape is (result, input, marker)
            total += times * array_bytes(instruction.shape, hbm_only=True)
            continue
        read = sum(
            min(
                array_bytes(computation[name].shape, hbm_only=True),
                _used(program, instruction, index, array_bytes(computation[name].shape)),
            )
            for index, name in enumerate(instruction.operands)
            if name in computation
        )
        written = array_bytes(instruction.shape, hbm_only=True)
        if instruction.operation == "send":  # its shape is what it reads
            written = 0
        if _updates(program, instruction):
            read, written = read - written, min(read - written, written)
        total += times * (max(read, 0) + written)
    return total


def _used(program: Program, instruction: Instruction, index: int, size: int) -> int:
    """Bytes of an operand that an instruction looks at."""
    if instruction.operation in SLICES:
        return min(size, array_bytes(instruction.shape)) if index == 0 else size
    if instruction.operation != "fusion" or not instruction.called:
        return size
    inside = program.computations.get(instruction.called[0], {})
    parameter = next(
        (
            i
            for i in inside.values()
            if i.operation == "parameter" and i.rest.startswith(f"{index})")
        ),
        None,
    )
    if parameter is None:
        return size
    users = [i for i in inside.values() if parameter.name in i.operands]
    if users and all(i.operation in SLICES and i.operands[0] == parameter.name for i in users):
        return sum(array_bytes(i.shape) for i in users)
    return size


def _updates(program: Program, instruction: Instruction) -> bool:
    """Whether an instruction changes a part of its first large operand in place."""
    if instruction.operation == "dynamic-update-slice":
        return True
    inside = program.computations.get(instruction.called[0], {}) if instruction.called else {}
    if instruction.operation != "fusion" or not inside:
        return False
    return list(inside.values())[-1].operation == "dynamic-update-slice"


def array_bytes(shape: str, *, hbm_only: bool = False) -> int:
    """Bytes of all arrays in a shape, or of those that do not lie in a memory of the chip's own."""
    total = 0
    for kind, lengths, layout in _ARRAY.findall(shape):
        if not (hbm_only and re.search(r"S\([1-9]\d*\)", layout)):
            elements = math.prod(int(length) for length in lengths.split(",") if length)
            total += elements * _item_bits(kind) // 8
    return total


def _item_bits(kind: str) -> int:
    if kind in ("pred", "token"):
        return 8 if kind == "pred" else 0
    width = re.search(r"\d+", kind)
    return int(width[0]) if width else 0


def _arguments(rest: str) -> str:
    """What stands before the parenthesis that closes an instruction's operands."""
    depth = 1
    for position, character in enumerate(rest):
        depth += (character in "({") - (character in ")}")
        if depth == 0:
            return rest[:position]
    return rest


def buffers(text: str) -> dict[str, int]:
    """Bytes of HBM by use: "arguments", "outputs" beside those in their place, "temporaries".

    Args:
      text: the compiler's buffer assignment.
    """
    sizes = {"arguments": 0, "outputs": 0, "temporaries": 0}
    for size, kinds in re.findall(r"^allocation \d+: size (\d+), (.*):$", text, re.MULTILINE):
        color = re.search(r"color (\d+)", kinds)
        if color and color[1] != "0":
            continue
        if "parameter" in kinds:
            sizes["arguments"] += int(size)
        elif "live-out" in kinds or "output shape" in kinds:
            sizes["outputs"] += int(size)
        else:
            sizes["temporaries"] += int(size)
    return sizes
