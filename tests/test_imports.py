"""The rooms of the package, and the one direction in which they import each other."""

import ast
import functools
import graphlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "ibot_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in MODULES]

# From the top to the bottom: a room imports from those in the lines below its own, and from itself.
ROOMS = (
    ("__init__",),
    ("main", "python", "export", "convert", "embed", "predict", "tools", "__main__"),
    ("finetune", "visualize"),
    ("runs",),
    ("evaluate",),
    ("weights",),
    ("cli",),
    ("methods", "data"),
    ("losses", "optim"),  # a rate goes by the layer, which the backbone's names tell
    ("models",),
    ("kernels",),
    ("screen",),  # which of several processes shows
    ("files",),  # an atomic write hears of the signals that end the program
    ("parallel",),
    ("config",),
    ("errors",),
)
DOORS = {"main", "python", "export", "predict", "errors", "__init__", "__main__"}
# Inside of rooms that have rooms, in the same way; REST are all other files and folders of one.
REST = "*"
INNER = {
    "data": ((REST,), ("make",), ("draw", "sources"), ("pixels",)),
    "evaluate": (
        (REST,),
        ("tasks",),
        ("probes",),
        ("benchmarks",),
        ("measures",),
        ("features",),
        ("common",),
    ),
    "kernels": (
        ("check",),
        ("branch",),
        ("attention", "colors"),
        ("tpu", "cudnn"),
        (REST,),
    ),
    "weights": (("foreign",), (REST,)),
    "tools": (("aot", "bench"), ("pods",), (REST,)),
}
MOST_FILES = 20
PURE = ("methods", "losses", "optim", "models", "kernels")  # the step, and what lies under it
IMPURE_LIBRARIES = {
    "tensorflow",
    "tensorflow_datasets",
    "absl",
    "tensorboard",
    "os",
    "pathlib",
    "etils",
}


def dotted(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


NAMES = {dotted(path).removesuffix(".__init__"): path for path in MODULES}


def imported(path):
    """Yields every dotted name that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def files_imported(path):
    """Returns the files of the package that a file imports."""
    found = set()
    for name in imported(path):
        while name and name not in NAMES:  # what a module holds
            name = name.rpartition(".")[0]
        found |= {NAMES[name]} if name else set()
    return found


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def inner(path):
    parts = path.relative_to(PACKAGE).parts
    lines = INNER.get(parts[0], ((REST,),))
    name = parts[-1] if len(parts) < 2 else parts[1].removesuffix(".py")
    return level(lines, name if any(name in line for line in lines) else REST)


def beside(path, other):
    """Whether two files of a room lie in the same folder of it, or in none that has a line."""
    lines = INNER.get(room(path), ())
    names = [file.relative_to(PACKAGE).parts[1].removesuffix(".py") for file in (path, other)]
    return names[0] == names[1] or not any(name in line for line in lines for name in names)


def level(lines, name):
    return next(number for number, line in enumerate(lines) if name in line)


def test_every_room_is_on_the_map():
    assert {room(path) for path in MODULES} == {name for line in ROOMS for name in line}


def test_only_doors_lie_at_the_top():
    assert {path.stem for path in PACKAGE.glob("*.py")} == DOORS


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=str)
def test_a_room_can_be_overlooked(folder):
    assert len(list(folder.glob("*.py"))) <= MOST_FILES + 1  # __init__.py


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_rooms_import_only_what_lies_below(path):
    for other in files_imported(path) - {PACKAGE / "__init__.py"}:
        if room(other) != room(path):
            assert level(ROOMS, room(other)) > level(ROOMS, room(path)), other
        else:
            assert inner(other) > inner(path) or beside(path, other), other


def test_no_circle_of_files():
    inits = {path for path in MODULES if path.name == "__init__.py"}
    graph = {path: files_imported(path) - inits for path in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_importing_the_package_imports_nothing_of_it():
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {ast.unparse(node).split()[1] for node in imports} == {"collections.abc", "typing"}


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_the_step_and_what_lies_under_it_know_no_files_and_no_tensorflow(path):
    if room(path) in PURE:
        libraries = {name.split(".")[0] for name in imported(path)}
        assert not libraries & IMPURE_LIBRARIES
