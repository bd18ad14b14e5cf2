"""The direction of imports: main and tools on top, step's ingredients at the bottom."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "ibot_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
# A module may import from layers below its own, and from its own.
LAYERS = [
    {"errors", "signals", "durations", "other_names", "quiet"},
    {"config_keys"},
    {"defaults"},
    {"config", "colors"},
    {
        "losses",
        "optimizer",
        "models",
        "sharding",
        "forward",
        "augment",
        "chunked",
        "objective",
        "tpu_cores",
        "tpu_kernel",
        "tpu_colors",
    },
    {"schedules"},
    {"step", "data", "paths"},
    {"watchdog", "json_lines", "tensorboard"},
    {"links", "peers", "relay", "rendezvous"},
    {"agreement", "distributed", "same_images"},
    {
        "checkpoint",
        "checksums",
        "history",
        "restoring",
        "saved",
        "metrics",
        "header",
        "progress",
        "workdir",
        "config_check",
        "config_rules",
        "config_relations",
        "config_file",
        "memory",
        "collapse",
        "command_line",
        "unforeseen",
        "sanity",
        "recorded",
        "subcommands",
    },
    {"tensors"},
    {"pretrained", "exported", "lock", "loop", "beginning", "finetuned", "starting"},
    {"evaluate", "visualize", "finetune"},
    {"pretrain"},
    {"export", "writers", "card", "quoting"},
    {"convert", "embed"},
    {"main", "tools", "__main__"},
]
PURE = {*LAYERS[4], *LAYERS[5], "step"}
IMPURE_LIBRARIES = {"tensorflow", "tensorflow_datasets", "absl", "clu", "os", "pathlib", "etils"}


def unit(path):
    """Returns the module or subpackage right below ibot_jax that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Yields every dotted name that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_import(node):
    return isinstance(node, ast.Import | ast.ImportFrom)


def layer(name):
    return next(i for i, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_imports_what_lies_above_it(path):
    if unit(path) == "__init__":
        top_level = [node for node in ast.parse(path.read_text()).body if is_import(node)]
        assert not top_level  # importing a package imports nothing of it
        return
    for name in imported(path):
        if name.startswith("ibot_jax."):
            assert layer(name.split(".")[1]) <= layer(unit(path)), name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_step_and_what_lies_under_it_know_no_files_and_no_tensorflow(path):
    if unit(path) in PURE:
        libraries = {name.split(".")[0] for name in imported(path)}
        assert not libraries & IMPURE_LIBRARIES


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_is_a_file_under_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


def test_every_module_has_a_layer():
    assert {unit(path) for path in MODULES} - {"__init__"} <= set.union(*LAYERS)
