"""What the TPU compiler says of a compiled program: time by part, collectives, what it left open.

The scheduled program carries the compiler's own estimate of cycles for nearly every operation.
They are its figures, not a measurement. For a Pallas kernel it writes down its schedule instead,
bundles of instructions of which one starts each cycle; what a kernel does in loops stands there
once.
"""

import dataclasses
import math
import pathlib
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from ibot_jax.kernels.tpu.kernel import PREFIX
from ibot_jax.tools.pods.chips import Chip

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", re.DOTALL | re.MULTILINE)
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?) (?P<kind>[\w\-]+)\(")
_ARRAY = re.compile(r"\b(pred|[sufb]f?\d+)\[([\d,]*)\]")
# Memory that is set aside, and parts of an array that lie side by side already: no work.
_NO_WORK = re.compile(r'custom_call_target="(\w*Buffer|ConcatBitcast)"')
_UNKNOWN = 2**63 - 1  # cycles: what the compiler writes where its estimate fails
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

# In the name of an operation: what JAX did to the function that it was written in.
_TRANSFORMED = {
    *("jvp", "transpose", "vmap", "shard_map", "closed_call", "eval_jaxpr"),
    *("while", "body", "cond", "branch_0_fun", "branch_1_fun"),
    *("checkpoint", "rematted_computation", "remat", "custom_jvp_call", "custom_vjp_call"),
}
_DEPTH = 4  # scopes that tell one part from another


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over the same axes.

    Attributes:
      kind: such as "all-reduce".
      axes: of the mesh, by name and joined by "+".
      group: devices that take part together.
      count: how often it runs in a step.
      size: bytes that they put out on a chip, in all.
    """

    kind: str
    axes: str
    group: int
    count: int
    size: int

    @property
    def sent(self) -> float:
        """Bytes that pass a chip's links at least: those of a ring."""
        share = (self.group - 1) / self.group
        return self.size * {"all-reduce": 2 * share, "reduce-scatter": self.group - 1}.get(
            self.kind, 1.0 if self.kind == "collective-permute" else share
        )


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A Pallas kernel.

    Attributes:
      name: of its operation.
      count: how often it runs in a step.
      steps: of its grid.
      bundles: of its schedule, for one step of the grid; None where there is none.
      flops: that its author says it does.
      size: bytes that its author says it reads and writes.
    """

    name: str
    count: int
    steps: int
    bundles: int | None
    flops: int
    size: int

    def seconds(self, chip: Chip) -> float:
        """Returns the least time of all its runs: by its schedule, its FLOPs and its bytes."""
        scheduled = math.ceil(self.steps / chip.cores) * (self.bundles or 0) / chip.clock
        return self.count * max(scheduled, self.flops / chip.peak, self.size / chip.bandwidth)


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled program does on one chip.

    Attributes:
      parts: the compiler's estimate of cycles by `part_of` the step, kernels apart; the body of a
        loop counts as often as it runs where its condition tells, else as often as `read_program`
        is told.
      kernels: by name.
      collectives: what moves between chips, by kind and axes.
      not_estimated: operations of each kind without an estimate, collectives apart: how many, and
        the bytes that they read and write. Those that end in "-start" go on beside others.
    """

    parts: dict[str, int]
    kernels: list[Kernel]
    collectives: list[Collective]
    not_estimated: dict[str, tuple[int, int]]

    @property
    def cycles(self) -> int:
        """The compiler's estimate of all parts."""
        return sum(self.parts.values())


def part_of(operation: str) -> str:
    """Returns the part of a step that an operation belongs to: "student/ViT/Block, backward".

    Args:
      operation: its line in a compiled program. Its metadata name the scopes and modules that it
        was written in, and the functions that JAX transformed; a fusion has those of its result.

    Returns:
      Scopes and classes of modules, blocks and layers without their numbers; "other" for what was
      written outside of any.
    """
    found = re.search(r'op_name="([^"]*)"', operation)
    name = re.sub(r"\bjit\([^()]*\)", "", found[1].partition(";")[0]) if found else ""
    backward = ", backward" if "transpose(" in name else ""
    *scopes, _ = re.split(r"[/()]+", name.rstrip(")"))  # the last one is the operation
    words = []
    for scope in scopes:
        word = re.sub(r"_\d+$", "", scope.partition(".")[0])
        # Of products written with letters the scope is the equation.
        if word and word not in words and word not in _TRANSFORMED and "->" not in scope:
            words.append(word)
    return ("/".join(words[:_DEPTH]) or "other") + backward


def schedule_flags(folder: pathlib.Path) -> str:
    """Returns what tells the compiler to write the schedules of all operations into a folder."""
    return (
        f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
        "--xla_jf_dump_llo_pass_label_regex=^final_bundles$"
    )


def read_schedules(folder: pathlib.Path) -> dict[str, int]:
    """Returns the bundles of the kernels whose schedules were written into a folder, by name."""
    bundles = {}
    for path in folder.glob("*schedule-analysis_final_bundles.txt"):
        name = re.search(rf"-({PREFIX}\w+)[.\d]*-\d+-", path.name)
        total = re.search(r"total scheduled bundles: +(\d+)", path.read_text())
        if name and total:
            bundles[name[1]] = int(total[1])
    return bundles


def read_program(
    text: str, mesh: Mapping[str, int], bundles: Mapping[str, int] | None = None, turns: int = 1
) -> Program:
    """Reads the text of a scheduled program (`jax.stages.Compiled.as_text`).

    Args:
      text: of the program.
      mesh: sizes of the axes by name, in order.
      bundles: of `read_schedules`.
      turns: of loops whose condition does not tell, those over chunks of masked tokens.
    """
    # Of a kernel's metadata, what spans lines.
    text = re.sub(r"kernel_metadata=\{\n(.*?)\n\}", r"kernel_metadata={\1}", text, flags=re.DOTALL)
    computations = {name: (bool(entry), body) for entry, name, body in _COMPUTATION.findall(text)}
    entry = next(name for name, (is_entry, _) in computations.items() if is_entry)
    counts, sizes, parts = Counter(), Counter(), Counter()
    kernels, not_estimated = {}, {}

    def count(line: str, kind: str, size: int, times: int) -> None:
        key = (kind, *_axes(line, mesh))
        counts[key] += times
        sizes[key] += times * size

    def count_fused(line: str, times: int) -> bool:
        """Counts a collective that a fusion holds; returns whether it holds one."""
        called = re.search(r"calls=%?([\w.\-]+)", line)[1]
        for inner in computations[called][1].splitlines():
            operation = _OPERATION.match(inner)
            kind = operation["kind"] if operation else ""
            if kind in _COLLECTIVES:
                size = _size(operation["type"])
                if called.startswith("all-reduce-scatter"):  # each device keeps its part of the sum
                    kind, size = "reduce-scatter", size // _axes(inner, mesh)[1]
                count(inner, kind, size, times)
                return True
        return False

    def add_up(computation: str, times: int) -> None:
        for line in computations[computation][1].splitlines():
            operation = _OPERATION.match(line)
            if operation is None:
                continue
            kind = operation["kind"].removesuffix("-start")
            estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
            if kind in _COLLECTIVES:
                count(line, kind, _output_size(operation["kind"], operation["type"]), times)
            elif kind == "while":
                condition, body = (
                    re.search(rf"{role}=%?([\w.\-]+)", line)[1] for role in ("condition", "body")
                )
                add_up(body, times * (_trip_count(computations[condition][1]) or turns))
            elif operation["name"].startswith(PREFIX) and kind == "custom-call":
                kernel = _read_kernel(operation["name"], line, times, bundles or {})
                known = kernels.get(kernel.name)
                if known:
                    kernel = dataclasses.replace(kernel, count=kernel.count + known.count)
                kernels[kernel.name] = kernel
            elif estimate and int(estimate[1]) < _UNKNOWN:
                parts[part_of(line)] += times * int(estimate[1])
            elif operation["name"].startswith("async-collective-done"):
                continue  # counted at its start
            elif kind == "fusion" and count_fused(line, times):
                continue
            elif not (kind in _FREE or kind.endswith("-done") or _NO_WORK.search(line)):
                number, size = not_estimated.get(operation["kind"], (0, 0))
                # What is put out was read before, or as much.
                size += times * 2 * _size(operation["type"])
                not_estimated[operation["kind"]] = number + 1, size

    add_up(entry, 1)
    collectives = [
        Collective(kind, axes, group, counts[kind, axes, group], size)
        for (kind, axes, group), size in sizes.most_common()
    ]
    return Program(dict(parts), list(kernels.values()), collectives, not_estimated)


def _read_kernel(name: str, line: str, times: int, bundles: Mapping[str, int]) -> Kernel:
    name = name.partition(".")[0]
    said = {
        key: int(found[1]) if (found := re.search(rf'"{key}":"(\d+)"', line)) else 0
        for key in ("steps", "flops", "bytes_accessed")
    }
    return Kernel(
        name, times, said["steps"], bundles.get(name), said["flops"], said["bytes_accessed"]
    )


def _axes(line: str, mesh: Mapping[str, int]) -> tuple[str, int]:
    """Returns the axes of the mesh over which a collective runs, and how many devices share it."""
    if named := re.search(r"replica_groups=mesh\[[^\]]*\] ?\{([^}]*)\}", line):
        axes = [axis for axis in mesh if f"'{axis}'" in named[1]]
    else:
        group = _first_group(line, math.prod(mesh.values()))
        places = np.array(np.unravel_index(group, tuple(mesh.values())))
        axes = [axis for axis, row in zip(mesh, places, strict=True) if len(set(row)) > 1]
    return "+".join(axes), math.prod(mesh[axis] for axis in axes)


def _first_group(line: str, devices: int) -> list[int]:
    """Returns devices that take part in one and the same collective, or two that exchange."""
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", line):
        return [int(number) for number in listed[1].split(",")]
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if iota is None:  # without groups: all take part
        return list(range(devices))
    order = np.arange(devices).reshape([int(n) for n in iota[3].split(",")])
    if iota[4]:
        order = order.transpose([int(n) for n in iota[4].split(",")])
    return list(order.reshape(int(iota[1]), int(iota[2]))[0])


def _output_size(kind: str, type_text: str) -> int:
    """Returns the bytes that a collective puts out; of a started one the type tells inputs, too."""
    if kind in ("all-reduce", "all-reduce-start") or not kind.endswith("-start"):
        return _size(type_text)
    arrays = _ARRAY.findall(type_text)  # inputs, outputs, and perhaps counters
    arrays = [array for array in arrays if array[1] or array[0] not in ("u32", "s32")]
    return sum(map(_array_size, arrays[len(arrays) // 2 :]))


def _trip_count(condition: str) -> int | None:
    """Returns how often a loop runs, from its condition "counter < constant"; None for others."""
    compared = re.search(
        r"^\s*ROOT [^\n]* compare\(%?get-tuple-element[\w.]*, %?([\w.\-]+)\), direction=LT",
        condition,
        re.MULTILINE,
    )
    if compared is None:
        return None
    constant = re.search(
        rf"^\s*%?{re.escape(compared[1])} = s32\[\]\S* constant\((\d+)\)", condition, re.MULTILINE
    )
    return int(constant[1]) if constant else None


def _size(type_text: str) -> int:
    """Returns the bytes of an array or tuple type: "(f32[8,128]{1,0}, bf16[4])"."""
    return sum(map(_array_size, _ARRAY.findall(type_text)))


def _array_size(array: tuple[str, str]) -> int:
    dtype, shape = array
    return math.prod(map(int, filter(None, shape.split(",")))) * _width(dtype)


def _width(dtype: str) -> int:
    return 1 if dtype == "pred" else max(int(re.sub(r"\D", "", dtype)) // 8, 1)
