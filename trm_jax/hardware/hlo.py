"""Reads the text of a program that XLA has compiled: its computations, its loops, and the kernels that they launch."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

SILENT = {"parameter", "tuple", "get-tuple-element", "constant", "bitcast"}  # instructions that launch nothing
CONTROL = {"while", "conditional", "call"}  # what they launch is in the computations that they name
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
BYTES |= {"s64": 8, "u64": 8, "f8e4m3fn": 1, "token": 0}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation|async_execution_thread)=%?([\w.\-]+)")
_EXCHANGE = re.compile("all-|reduce-scatter|collective-")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: `%name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    rest: str  # operands and attributes

    @property
    def bytes(self) -> int:
        """Bytes of the result, that of all its parts for a tuple."""
        return _bytes_of(self.arrays)

    @property
    def arrays(self) -> list[tuple[str, str]]:
        """Type and dimensions of the result, or of each of its parts."""
        return [(kind, dims) for kind, dims in _ARRAY.findall(self.shape) if kind in BYTES]

    @property
    def called(self) -> list[str]:
        """The computations that a loop, a condition or a fusion runs; a loop's condition is not among them."""
        branches = _BRANCHES.search(self.rest)
        inner = re.findall(r"[\w.\-]+", branches[1]) if branches else []
        return [*_CALLED.findall(self.rest), *inner]

    @property
    def trip_count(self) -> int | None:
        """How often a loop runs, where XLA knows."""
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.rest)
        return int(found[1]) if found else None

    @property
    def target(self) -> str | None:
        """What a custom call calls: a function of cuBLAS, cuDNN or a kernel's name."""
        found = re.search(r'custom_call_target="([^"]*)"', self.rest)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Collective:
    """An instruction by which devices exchange numbers."""

    kind: str  # all-reduce, all-gather, reduce-scatter, all-to-all, collective-permute
    bytes: int  # of its result, on each device
    path: tuple[int | None, ...]  # trip counts of the loops around it, the outermost first

    @property
    def times(self) -> int:
        """How often a run of the program does it; a loop of unknown length counts once."""
        return math.prod(count or 1 for count in self.path)


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop of the program; `path` has the trip counts of those around it, the outermost first, and its own at the end."""

    path: tuple[int | None, ...]
    body: str


class Hlo:
    """A compiled program, from the text of `compiled.as_text()`."""

    def __init__(self, text: str):
        self.text = text
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = self.computations[header[2]] = []
                self.entry = header[2] if header[1] else self.entry
            elif (found := _INSTRUCTION.match(line)) and self.computations:
                current.append(_read_instruction(found[1], found[2]))

    @functools.cached_property
    def loops(self) -> list[Loop]:
        """All loops, those inside of others too, outer ones first."""
        return list(self._loops_of(self.entry, ()))

    def loop(self, *path: int | None) -> Loop:
        """The one loop at this path."""
        found = [loop for loop in self.loops if loop.path == path]
        if len(found) != 1:
            raise ValueError(f"{len(found)} loops at {path}; there are {[loop.path for loop in self.loops]}")
        return found[0]

    @functools.cached_property
    def collectives(self) -> list[Collective]:
        """All exchanges between devices."""
        places = [((), self.entry), *((loop.path, loop.body) for loop in self.loops)]
        return [
            Collective(kernel.opcode.removesuffix("-start"), _exchanged_bytes(kernel), path)
            for path, computation in places
            for kernel in self.kernels(computation)
            if _EXCHANGE.match(kernel.opcode)
        ]

    def kernels(self, computation: str) -> list[Instruction]:
        """What a computation launches each time it runs, without the loops in it; of a condition, all branches."""
        found = []
        for instruction in self.computations[computation]:
            if instruction.opcode in ("call", "conditional"):
                found += [kernel for name in instruction.called for kernel in self.kernels(name)]
            elif not (instruction.opcode in SILENT or instruction.opcode == "while" or _is_second_half(instruction)):
                found.append(instruction)
        return found

    def launches(self, computation: str | None = None, unknown: int = 1) -> int:
        """Kernels launched by a run, those of loops as often as they run, or `unknown` times where XLA does not know."""
        computation = computation or self.entry
        total = len(self.kernels(computation))
        for loop in self._loops_of(computation, (), nested=False):
            count = loop.path[0]
            total += (unknown if count is None else count) * self.launches(loop.body)
        return total

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instruction itself, and those that are fused in it."""
        yield instruction
        for name in instruction.called:
            for inner in self.computations.get(name, []):
                yield from self.inside(inner)

    def _loops_of(self, computation: str, path: tuple, nested: bool = True) -> Iterator[Loop]:
        for instruction in self.computations[computation]:
            if instruction.opcode == "while":
                body = re.search(r"body=%?([\w.\-]+)", instruction.rest)[1]
                loop = Loop((*path, instruction.trip_count), body)
                yield loop
                if nested:
                    yield from self._loops_of(body, loop.path)
            elif instruction.opcode in ("call", "conditional"):
                for name in instruction.called:
                    yield from self._loops_of(name, path, nested)


def _read_instruction(name: str, text: str) -> Instruction:
    depth = 0
    for end, character in enumerate(text):  # noqa: B007 - a tuple's shape has spaces and brackets of its own
        depth += (character in "([{") - (character in ")]}")
        if character == " " and depth == 0:
            break
    opcode, _, rest = text[end + 1 :].partition("(")
    return Instruction(name, text[:end], opcode, rest)


def _exchanged_bytes(kernel: Instruction) -> int:
    """Bytes of an exchange's result; one that is only started has its operands before its results."""
    arrays = kernel.arrays
    if kernel.opcode.endswith("-start") and kernel.shape.startswith("("):
        arrays = arrays[len(arrays) // 2 :]
    return _bytes_of(arrays)


def _bytes_of(arrays: list[tuple[str, str]]) -> int:
    return sum(BYTES[kind] * math.prod(map(int, filter(None, dims.split(",")))) for kind, dims in arrays)


def _is_second_half(instruction: Instruction) -> bool:
    """Whether it only waits for what another instruction has started."""
    return instruction.opcode.endswith(("-done", "-update"))
