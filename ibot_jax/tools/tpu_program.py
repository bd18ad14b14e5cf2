"""What the TPU compiler says of a compiled program: time, collectives, and what it left open.

The scheduled program carries the compiler's own estimate of cycles for nearly every operation.
They are its figures, not a measurement.
"""

import dataclasses
import math
import re
from collections import Counter

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", re.DOTALL | re.MULTILINE)
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?) (?P<kind>[\w\-]+)\(")
_ARRAY = re.compile(r"\b(pred|[sufb]f?\d+)\[([\d,]*)\]")
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# Operations that take no time, or whose time is that of the operations they hold.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "partition-id", "replica-id", "after-all", "opt-barrier"),
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip, by Google's documentation.

    Attributes:
      clock: cycles a second.
      peak: dense bfloat16 FLOPs a second.
      memory: bytes of HBM.
      link: bytes a second between chips, all links together.
    """

    clock: float
    peak: float
    memory: float
    link: float


CHIPS = {  # by the name that JAX gives the device
    "TPU v4": Chip(1.05e9, 275e12, 32 * 2**30, 300e9),
    "TPU v5 lite": Chip(1.5e9, 197e12, 16 * 2**30, 200e9),
    "TPU v5": Chip(1.75e9, 459e12, 95 * 2**30, 600e9),
    "TPU v6 lite": Chip(1.75e9, 918e12, 32 * 2**30, 448e9),
}


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled program does on one chip.

    Attributes:
      cycles: the compiler's estimate; the body of a loop counts as often as it runs where its
        condition tells, else once (the chunks of masked tokens: mostly there is one).
      collectives: bytes that each kind of collective puts out, {"all-reduce": 12345, ...}.
      not_estimated: operations of each kind without an estimate, collectives apart.
    """

    cycles: int
    collectives: dict[str, int]
    not_estimated: dict[str, int]


def read_program(text: str) -> Program:
    """Reads the text of a scheduled program (`jax.stages.Compiled.as_text`)."""
    computations = {name: (bool(entry), body) for entry, name, body in _COMPUTATION.findall(text)}
    entry = next(name for name, (is_entry, _) in computations.items() if is_entry)
    collectives, not_estimated = Counter(), Counter()

    def cycles_of(computation: str, times: int) -> int:
        total = 0
        for line in computations[computation][1].splitlines():
            operation = _OPERATION.match(line)
            if operation is None:
                continue
            kind = operation["kind"].removesuffix("-start")
            estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
            if kind in _COLLECTIVES:
                collectives[kind] += times * _size(operation["type"])
            elif kind == "while":
                condition, body = (
                    re.search(rf"{role}=%?([\w.\-]+)", line)[1] for role in ("condition", "body")
                )
                total += cycles_of(body, times * _trip_count(computations[condition][1]))
            elif estimate:
                total += times * int(estimate[1])
            elif kind not in _FREE and not kind.endswith("-done"):
                not_estimated[kind] += 1
        return total

    cycles = cycles_of(entry, 1)
    return Program(cycles, dict(collectives), dict(not_estimated))


def _trip_count(condition: str) -> int:
    """Returns how often a loop runs, from its condition "counter < constant"; 1 for any other."""
    compared = re.search(
        r"^\s*ROOT [^\n]* compare\(%?get-tuple-element[\w.]*, %?([\w.\-]+)\), direction=LT",
        condition,
        re.MULTILINE,
    )
    if compared is None:
        return 1
    constant = re.search(
        rf"^\s*%?{re.escape(compared[1])} = s32\[\]\S* constant\((\d+)\)", condition, re.MULTILINE
    )
    return int(constant[1]) if constant else 1


def _size(type_text: str) -> int:
    """Returns the bytes of an array or tuple type: "(f32[8,128]{1,0}, bf16[4])"."""
    return sum(
        math.prod(map(int, filter(None, shape.split(",")))) * _width(dtype)
        for dtype, shape in _ARRAY.findall(type_text)
    )


def _width(dtype: str) -> int:
    return 1 if dtype == "pred" else max(int(re.sub(r"\D", "", dtype)) // 8, 1)
