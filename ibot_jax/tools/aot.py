"""Compiles the training step for a TPU pod that is not there, and tells what the compiler says.

    python -m ibot_jax.tools.aot --config=configs/vitb16.py --topology=v5e:16x16 [--batch-size=1024]
        [--mesh=DATAxFSDPxTENSOR] [--fit] [--json=FILE] [--config.KEY=VALUE ...]

Memory of a chip, time of a step and its ten largest costs, what moves between chips, images a
second, hours of the whole schedule: all of them the compiler's figures for one chip, not a
measurement. What it does not estimate, what moves between chips above all, is counted by the bytes
over the chip's bandwidth. Kernels (`model.kernels`) are taken as a run takes them once its check on
the device has passed. Input, evaluations and checkpoints come on top. Of a run whose views change
their size (`high_res`) the step is that with the largest ones, and the schedule as if all steps
were; `--config.high_res.last=` leaves them out. No frozen network is read: that of `frozen.gram` is
taken for one like the student's, and with `frozen.teacher` there is nothing to compile. `--fit`
looks for the largest batch that fits.

    python -m ibot_jax.tools.aot --config=configs/vits16.py --scaling=weak|strong --batch-size=64
        --topology=v5p:2x2x1,v5p:4x4x4,v5p:8x8x8 [--mesh=1xNx1] [--json=FILE]

compiles for several pods: with as many images a chip as the first has, or as many in all. FILE then
has a line a pod, and those it has already are not compiled again. In --mesh, N is what is left.

Needs the TPU compiler, `pip install 'ibot-jax[aot]'`, best in an environment of its own. It
fails when the step does not fit the chip's memory.
"""

from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import argparse
import importlib.metadata
import math
import sys
from collections.abc import Iterator

from ibot_jax.cli import exits, flags
from ibot_jax.cli.command_line import OneLineParser, exit_status, leave
from ibot_jax.cli.config_file import add_config_arguments, given_config
from ibot_jax.config.section import Section
from ibot_jax.data.sources.opening import IMAGENET_EXAMPLES
from ibot_jax.errors import UserError
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.check import check_config, check_devices
from ibot_jax.tools.pods import scaling
from ibot_jax.tools.pods.ahead import compile_ahead, pod_devices
from ibot_jax.tools.pods.largest_batch import largest_batch

_SMALL = 2**17  # bytes; of operations that are not worth a line of the table
_LARGEST = 10  # costs that are


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return exit_status(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    arguments, config = _parse(argv)
    if arguments.scaling:
        return _scale(config, arguments)
    report = {"config": arguments.config, "topology": arguments.topology}
    report |= {"overrides": arguments.overrides, "frozen_gram": config.frozen.gram}
    report |= _compile(config, arguments)
    if arguments.json:
        write_json(absolute_path(arguments.json), report)
    print(table(report))
    return exits.COMPLETE if report["fits"] else exits.FAILED


def _parse(argv: list[str] | None) -> tuple[argparse.Namespace, Section]:
    parser = OneLineParser(
        prog="python -m ibot_jax.tools.aot",
        description=__doc__,
        former={"--batch": "--batch-size", "--images": "--number"},
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--topology",
        required=True,
        help="such as v5e:16x16, v4:4x4x4, v5p:4x4x4; several with --scaling",
    )
    parser.add_argument(
        "--mesh",
        metavar="DxFxT",
        help="devices over data, fsdp and tensor, such as 32x8x1; N is what the others leave",
    )
    parser.add_argument(
        "--scaling", choices=scaling.KINDS, help="compile for several pods, see above"
    )
    flags.add(parser, "--batch-size", type=int, help="images a step, over all chips")
    parser.add_argument(
        "--fit", action="store_true", help="find the largest batch that fits; compiles several"
    )
    parser.add_argument(
        "--number",
        type=int,
        default=IMAGENET_EXAMPLES,
        help="of images in the data (ImageNet-1k's)",
    )
    flags.add(parser, "--json")
    arguments, arguments_of_config = parser.parse_known_args(argv)
    arguments.overrides = arguments_of_config
    config = given_config(arguments)
    if arguments.batch_size is not None:
        config.batch_size = arguments.batch_size
    if arguments.scaling and arguments.fit:
        raise UserError("--fit is for one pod, --scaling for several; leave one out")
    config.knn.every = ""  # nothing is evaluated, nor checked for it
    if config.frozen.teacher:
        raise UserError(
            f"frozen.teacher={config.frozen.teacher!r} is not read here, and its size not known; "
            "compile a run of its student alone, --config.method=dinov2"
        )
    return arguments, config


def _set_mesh(config: Section, mesh: str | None, chips: int) -> None:
    """Writes the sizes of `--mesh` to the config, if there are any."""
    if mesh is None:
        return
    sizes = mesh.split("x")
    if len(sizes) != 3 or sizes.count("N") > 1 or not all(s == "N" or s.isdecimal() for s in sizes):
        raise UserError(f"--mesh={mesh} is no mesh; write DATAxFSDPxTENSOR, 32x8x1 or 1xNx1")
    others = math.prod(int(size) for size in sizes if size != "N")
    if "N" in sizes and (not others or chips % others):
        raise UserError(f"--mesh={mesh}: {chips} chips are no multiple of {others}")
    data, fsdp, tensor = (chips // others if size == "N" else int(size) for size in sizes)
    config.mesh.update(data=data, fsdp=fsdp, tensor=tensor)


def _scale(config: Section, arguments: argparse.Namespace) -> int:
    """Compiles for several pods, and prints a table of them."""
    topologies = arguments.topology.split(",")
    devices = {topology: pod_devices(topology) for topology in topologies}
    chips = [len(devices[topology]) for topology in topologies]
    sizes = scaling.batch_sizes(arguments.scaling, config.batch_size, chips)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    pods = []
    for topology, batch_size in zip(topologies, sizes, strict=True):
        config.batch_size = batch_size
        _set_mesh(config, arguments.mesh, len(devices[topology]))
        check_config(config)
        check_devices(config, len(devices[topology]))
        mesh = make_mesh(devices[topology], fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)
        pods.append(
            {
                "config": arguments.config,
                "overrides": arguments.overrides,
                "scaling": arguments.scaling,
                "topology": topology,
                "mesh": dict(mesh.shape),
                "batch_size": batch_size,
            }
            | versions
        )

    def compile_pod(pod: dict) -> dict:
        config.batch_size = pod["batch_size"]
        config.mesh.update(pod["mesh"])
        return compile_ahead(config, devices[pod["topology"]], arguments.number)

    rows = list(scaling.compiled_rows(pods, compile_pod, arguments.json))
    print(scaling.table(rows))
    print("the compiler's figures, not a measurement; nothing runs beside what moves between chips")
    return exits.COMPLETE if all(row["fits"] for row in rows) else exits.FAILED


def _compile(config: Section, arguments: argparse.Namespace) -> dict:
    devices = pod_devices(arguments.topology)
    _set_mesh(config, arguments.mesh, len(devices))
    check_config(config)
    if not arguments.fit:
        return compile_ahead(config, devices, arguments.number)

    def compile_batch(batch_size: int) -> dict:
        config.batch_size = batch_size
        report = compile_ahead(config, devices, arguments.number)
        verdict = "fits" if report["fits"] else "does not fit"
        print(f"batch {batch_size}: {verdict}; {_needs(report)}", file=sys.stderr, flush=True)
        return report

    chips = len(devices) // config.mesh.tensor  # over which a batch is spread
    best, too_large = largest_batch(compile_batch, config.batch_size, chips, arguments.number)
    if best is None or too_large is None:
        return best or too_large
    return best | {"smallest_batch_that_fails": too_large["batch_size"]}


def table(report: dict) -> str:
    """Returns the lines that show a report of `compile_ahead`."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    rows = [
        ("config", " ".join([report["config"], *report["overrides"]])),
        ("pod", f"{report['topology']}: {report['chips']} x {report['chip']}; mesh {mesh}"),
        ("batch", f"{report['batch_size']}, {report['batch_size'] / report['chips']:g} a chip"),
        ("views", " x ".join(map(str, report["global_size"])) + " px, global ones"),
    ]
    if "smallest_batch_that_fails" in report:
        rows.append(("", f"the largest that fits: {report['smallest_batch_that_fails']} does not"))
    rows += _rows_of_memory(report)
    if report["fits"]:
        rows += _rows_of_time(report)
    rows.append(("note", "the compiler's figures, not a measurement; input and k-NN come on top"))
    if report["frozen_gram"]:
        rows.append(("", f"{report['frozen_gram']} is taken for a network like the student's"))
    if report["fits"] and report["kernels"]:
        rows.append(("", "kernels as after a check on the device that all of them passed"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _rows_of_memory(report: dict) -> Iterator[tuple[str, str]]:
    advice = "a smaller --batch-size, a larger mesh.fsdp, grad_accum_steps, or model.remat=blocks"
    verdict = "it fits" if report["fits"] else f"it DOES NOT FIT; {advice}"
    yield "memory", f"{_needs(report)}: {verdict}"
    for kind, size in report["memory"].items():
        yield f"  {kind}", "not told" if size is None else _gib(size)


def _needs(report: dict) -> str:
    sizes = report["memory"].values()
    needed = "unknown" if None in sizes else _gib(sum(sizes))
    return f"{needed} of {_gib(report['memory_of_chip'])} a chip"


def _rows_of_time(report: dict) -> Iterator[tuple[str, str]]:
    yield (
        "step",
        f"{1e3 * report['step_seconds']:.2f} ms: {report['cycles']:,} cycles, "
        f"{1e3 * report['kernel_seconds']:.2f} ms in kernels, and "
        f"{1e3 * report['link_seconds']:.2f} ms between chips",
    )
    yield "speed", f"{report['images_per_second']:,.0f} images/s, the whole pod"
    yield (
        "FLOPs of a chip",
        f"{report['model_flops'] / 1e12:.3f} T by the model, "
        f"{report['compiler_flops'] / 1e12:.3f} T by the compiler, loops once",
    )
    yield (
        "bytes of a chip",
        f"{_gib(report['compiler_bytes'])}: {report['intensity']:.0f} FLOPs a byte, where the chip "
        f"could do {report['intensity_of_chip']:.0f}",
    )
    yield "utilisation", f"{100 * report['mfu_bound']:.1f} % MFU at most"
    yield "largest costs", f"{_LARGEST} of {len(report['costs'])}, which add up to the step"
    for part, seconds in list(report["costs"].items())[:_LARGEST]:
        share = seconds / report["step_seconds"]
        yield f"  {1e3 * seconds:.2f} ms", f"{100 * share:4.1f} %  {part}"
    for kernel in report["kernels"]:
        length = kernel["bundles"] or "no"  # then by its FLOPs and bytes
        yield (
            f"  {kernel['name']}",
            f"{kernel['count']} times {kernel['steps']} steps of {length} bundles",
        )
    for moved in report["collectives"]:
        name = f"  {moved['kind']} over {moved['axes'] or 'none'}"
        yield name, f"{moved['bytes'] / 2**20:.2f} MiB in {moved['count']}"
    for kind, what in report["not_estimated"].items():
        if what["bytes"] > _SMALL:
            how = "beside the rest" if kind.endswith("-start") else "counted by its bytes"
            yield f"  {kind}", f"no estimate: {what['bytes'] / 2**20:.2f} MiB, {how}"
    yield (
        "schedule",
        f"{report['steps']:,} steps, {report['hours']:.1f} hours, "
        f"{report['chip_hours']:,.0f} chip-hours",
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


if __name__ == "__main__":
    leave(main())
