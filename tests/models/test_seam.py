"""Outside of models/ nobody knows where a token lies, or how large a patch is: by syntax tree.

Nobody but the steps in PyTorch, which are models, too.
"""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "ibot_jax"
TWINS = (PACKAGE / "tools" / "benches").glob("torch_*.py")
MODELS = {*(PACKAGE / "models").rglob("*.py"), *TWINS}
OUTSIDE = sorted(set(PACKAGE.rglob("*.py")) - MODELS)
IDS = [str(path.relative_to(PACKAGE)) for path in OUTSIDE]

# Of a loaded model users may have arrays in which class token, registers and patches lie one after
# the other; nobody here asks for them.
FOR_USERS = {"last_layers", "last_attention"}
ARITHMETIC = (ast.Div, ast.FloorDiv, ast.Mod, ast.Mult, ast.Pow)
DIVIDES = {"divmod", "floor_divide", "divide", "mod", "remainder", "multiply", "repeat"}
SLICES = {"split", "take", "slice_in_dim", "dynamic_slice_in_dim", "dynamic_slice", "delete"}


def name_of(node):
    """Returns the last part of a name, or of what is called; "" of any other expression."""
    node = node.func if isinstance(node, ast.Call) else node
    return getattr(node, "attr", getattr(node, "id", ""))


def is_size(node, aliases):
    """Whether an expression is a patch size: by its name, attribute, key, or another name of it."""
    if isinstance(node, ast.Name):
        return node.id == "patch_size" or node.id in aliases
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value).rpartition(".")[2] == "patch_size"
    return isinstance(node, ast.Attribute) and node.attr in {"patch_size", "stride"}


def is_sequence(node, aliases):
    """Whether an expression is tokens one after the other, by its name or by what gives it."""
    if isinstance(node, ast.Attribute) and node.attr == "sequence":
        return True
    return "token" in name_of(node) or (isinstance(node, ast.Name) and node.id in aliases)


def bindings(tree):
    """Yields pairs of a name and the expression that it is bound to, tuples taken apart."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                yield from zip(target.elts, value.elts, strict=False)
            else:
                yield target, value


def other_names(tree, is_one):
    """Returns all names that are bound to such an expression, or to one of these names."""
    aliases, before = set(), None
    while aliases != before:
        before = set(aliases)
        aliases |= {
            target.id
            for target, value in bindings(tree)
            if isinstance(target, ast.Name) and is_one(value, before)
        }
    return aliases


def arithmetic_with_patch_sizes(tree):
    """Yields the lines that multiply or divide by a patch size, under whatever name."""
    aliases = other_names(tree, is_size)
    for node in ast.walk(tree):
        operands = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ARITHMETIC):
            operands = [node.left, node.right]
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ARITHMETIC):
            operands = [node.target, node.value]
        elif isinstance(node, ast.Call) and name_of(node) in DIVIDES:
            operands = node.args
        if any(is_size(operand, aliases) for operand in operands):
            yield node.lineno


def slices_of_tokens(tree):
    """Yields the lines that take tokens by their place, or ask for what could be taken so."""
    aliases = other_names(tree, is_sequence)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of_model = node.attr == "tokens" and "model" in name_of(node.value)
            found = of_model or node.attr in FOR_USERS
        elif isinstance(node, ast.Call):  # jnp.split(tokens, [1], axis=1)
            first = node.args[:1] if name_of(node) in SLICES else []
            found = any(is_sequence(argument, aliases) for argument in first)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
            found = is_sequence(node.value, aliases) and any(map(by_position, node.slice.elts))
        else:
            continue
        if found:
            yield node.lineno


def by_position(index):
    """Whether an index is a number, or a slice from or up to one."""
    if isinstance(index, ast.Slice):
        return index.lower is not None or index.upper is not None
    return isinstance(index, ast.Constant) and isinstance(index.value, int)


@pytest.mark.parametrize("path", OUTSIDE, ids=IDS)
def test_nobody_computes_with_a_patch_size(path):
    assert not list(arithmetic_with_patch_sizes(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", OUTSIDE, ids=IDS)
def test_nobody_takes_tokens_by_their_place(path):
    assert not list(slices_of_tokens(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    "code",
    [
        "rows = height // model.patch_size",
        "rows = height // config['model']['patch_size']",
        "rows = height // flat['model.patch_size']",
        "left = column * geometry.stride",
        "values = patch_size**2 * channels",
        "p = backbone.patch_size\nq = p\nrest = height % q",
        "data, side = config.data, config.model.patch_size\nrows, rest = divmod(height, side)",
        "height //= model.patch_size",
        "if (p := model.patch_size) and height % p:\n    pass",
        "masks = masks.repeat(geometry.stride, axis=1)",
    ],
)
def test_arithmetic_is_found_under_any_name(code):
    assert list(arithmetic_with_patch_sizes(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "cls = model.tokens(params, images)[:, 0]",
        "program = jax.jit(model.tokens)",
        "x = backbone.apply(variables, images).sequence\ncls = x[:, 0]",
        "weights = model.last_attention(params, images)",
        "cls, patches = tokens[:, 0], tokens[:, 1:]",
        "registers = class_tokens[..., 1:5, :]",
        "grid = tokens_of(images)[0, 1:]",
        "cls, rest = jnp.split(tokens, [1], axis=1)",
        "cls = jnp.take(features.sequence, 0, axis=1)",
    ],
)
def test_slices_are_found(code):
    assert list(slices_of_tokens(ast.parse(code)))
