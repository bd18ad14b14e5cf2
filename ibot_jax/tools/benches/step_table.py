"""The report of `bench step` as a table for people."""

import statistics

from ibot_jax.tools.benches.lines import aligned, scaled


def table(report: dict) -> str:
    """Returns the lines that show a report of `step.measure`."""
    seconds = report["step_seconds"]
    parameters = report["parameters"]
    masked = report["masked_tokens_per_image"]
    model = report["model_flops_per_image_total"]
    ratio = report["compiler_to_model_flops"]
    rows = [
        ("config", " ".join([report["config"], *report["overrides"]])),
        ("devices", f"{report['devices']} x {report['device']} (JAX {report['jax']})"),
        ("batch", f"{report['batch_size']} images, {report['dtype']}"),
        ("views", " x ".join(map(str, report["global_size"])) + " px, global ones"),
        ("kernels", ", ".join(report["kernels"]) or "xla"),
        (
            "parameters",
            ", ".join(f"{name} {number:,}" for name, number in parameters.items()),
        ),
        (
            "compilation",
            f"{report['compile_seconds']:.1f} s, after {report['trace_seconds']:.1f} s of tracing",
        ),
        (
            "step",
            f"{statistics.median(seconds):.4g} s, the median of {len(seconds)} "
            f"({min(seconds):.4g} to {max(seconds):.4g} s)",
        ),
        (
            "speed",
            f"{report['images_per_second']:.4g} images/s, "
            f"{report['images_per_second_per_device']:.4g} each device",
        ),
        (
            "masked tokens",
            f"{masked['drawn']:.1f} an image in these batches, {masked['expected']:.1f} expected",
        ),
        ("loss", f"{report['loss']:.4f}" if report["finite"] else "NOT FINITE"),
        ("memory", "of each device, by the compiler's plan"),
        *((f"  {name}", _bytes(size)) for name, size in report["memory_bytes"].items()),
        ("model FLOPs", f"{scaled(model)} an image, forward and backward"),
    ]
    for part, kinds in report["model_flops_per_image"].items():
        split = ", ".join(f"{_words(kind)} {scaled(flops)}" for kind, flops in kinds.items())
        rows.append((f"  {_words(part)}", f"{scaled(sum(kinds.values()))} ({split})"))
    rows += [
        (
            "compiler's FLOPs",
            f"{scaled(report['compiler_flops_per_image'])} an image, {ratio:.3f} x the model's",
        ),
        (
            "utilisation",
            f"{100 * report['mfu']:.1f} % MFU: "
            f"{scaled(report['model_flops_per_second_per_device'])}FLOP/s each device of "
            f"{scaled(report['peak_flops_per_second'])}FLOP/s",
        ),
        ("peak", report["peak"]),
    ]
    return aligned(rows)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _bytes(size: int) -> str:
    return f"{size / 2**30:.3f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"
