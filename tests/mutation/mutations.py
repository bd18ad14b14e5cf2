"""Small changes of Python source, each of which a test should notice."""

import ast
import builtins
import copy
import dataclasses
import itertools
from collections.abc import Iterator

_BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_COMPARED = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_CALLED = {  # functions and methods: what they are taken for
    "maximum": ("minimum",),
    "minimum": ("maximum",),
    "max": ("min",),
    "min": ("max",),
    "mean": ("sum",),
    "sum": ("mean",),
    "all": ("any",),
    "any": ("all",),
    "floor": ("ceil",),
    "ceil": ("floor",),
    "pmax": ("pmin", "psum"),
    "pmin": ("pmax",),
    "pmean": ("psum",),
    "psum": ("pmax", "pmean"),
    "argmax": ("argmin",),
}
# Calls of which neighbouring arguments may change places without any effect.
_SYMMETRIC = {"maximum", "minimum", "max", "min", "add", "equal", "logical_and", "logical_or"}
# Calls whose argument may stand in their place.
_TRANSPARENT = {"stop_gradient", "psum", "pmax", "pmin", "psum_scatter", "sqrt", "square", "exp"}
_STRINGS = {  # words of which one is easily taken for the other
    "data": "fsdp",
    "fsdp": "tensor",
    "tensor": "data",
    "class": "patch",
    "patch": "class",
    "global": "local",
    "local": "global",
    "teacher": "student",
    "student": "teacher",
    "highest": "default",
}
_AXES = {"BATCH_AXES": ("data", "fsdp"), "TENSOR_AXIS": ("fsdp",)}
# Where a change shows in messages only.
_PASSED_OVER = (ast.Raise, ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom, ast.AnnAssign)


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A change of one place.

    Attributes:
      where: the function or class around it, dotted; "" for the module itself.
      line: of the place, from 1.
      before: its source.
      after: what stands in its place.
      count: how many places of the same text are before it in `where`.
      source: the whole changed module.
    """

    where: str
    line: int
    before: str
    after: str
    count: int
    source: str

    @property
    def name(self) -> str:
        """By which it is known, however lines move."""
        number = f" #{self.count + 1}" if self.count else ""
        return f"{self.where}: {self.before} -> {self.after}{number}"


def mutations(source: str) -> Iterator[Mutation]:
    """Yields every change of a module's source that this file knows."""
    tree = ast.parse(source)
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    counts: dict[tuple[str, str, str], int] = {}
    for node, where in _places(tree, ""):
        for changed in _changes(node):
            encoded = source.encode()
            begin = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            before = " ".join(encoded[begin:end].decode().split())
            after = ast.unparse(changed)
            whole = isinstance(changed, ast.Slice | ast.stmt)
            text = after if whole else f"({after})"
            mutated = (encoded[:begin] + text.encode() + encoded[end:]).decode()
            try:
                ast.parse(mutated)
            except SyntaxError:  # within a format, or a target
                continue
            key = (where, before, after)
            count = counts[key] = counts.get(key, -1) + 1
            yield Mutation(where, node.lineno, before, after, count, mutated)


def _places(node: ast.AST, where: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _PASSED_OVER) or _is_docstring(child):
            continue
        inner = where
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{where}.{child.name}".lstrip(".")
            parts = [*child.body]
            if isinstance(child, ast.FunctionDef):
                parts += [*child.args.defaults, *filter(None, child.args.kw_defaults)]
            for part in parts:
                if not (isinstance(part, _PASSED_OVER) or _is_docstring(part)):
                    yield part, inner
                    yield from _places(part, inner)
            continue
        yield child, inner
        yield from _places(child, inner)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _with(node: ast.AST, **fields) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yields what could stand in a node's place."""
    match node:
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int()):
            yield ast.Constant(node.value + 1)
            yield ast.Constant(node.value - 1)
        case ast.Constant(value=float()):
            yield ast.Constant(node.value * 2 if node.value else 1.0)
        case ast.Constant(value=str()) if node.value in _STRINGS:
            yield ast.Constant(_STRINGS[node.value])
        case ast.Name(id=name, ctx=ast.Load()) if name in _AXES:
            yield from map(ast.Constant, _AXES[name])
        case ast.BinOp() if type(node.op) in _BINARY:
            yield _with(node, op=_BINARY[type(node.op)]())
        case ast.Compare(ops=[op]) if type(op) in _COMPARED:
            for other in _COMPARED[type(op)]:
                yield _with(node, ops=[other()])
        case ast.BoolOp():
            yield _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield node.operand
        case ast.IfExp():
            yield _with(node, body=node.orelse, orelse=node.body)
        case ast.Call():
            yield from _changed_calls(node)
        case ast.AugAssign() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Slice(lower=None, upper=ast.expr(), step=None):
            yield _with(node, lower=node.upper, upper=None)
        case ast.Slice(lower=ast.expr(), upper=None, step=None):
            yield _with(node, lower=None, upper=node.lower)


def _changed_calls(node: ast.Call) -> Iterator[ast.AST]:
    function = node.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    for other in _CALLED.get(name, ()):
        if isinstance(function, ast.Attribute):
            yield _with(node, func=_with(function, attr=other))
        elif other in dir(builtins):
            yield _with(node, func=_with(function, id=other))
    if name in _TRANSPARENT and node.args:
        yield node.args[0]
    if not _SYMMETRIC & {name, *(getattr(x, "attr", None) for x in node.args)}:
        for i, (one, next_one) in enumerate(itertools.pairwise(node.args)):
            both = ast.dump(one), ast.dump(next_one)
            if not any("Starred" in text for text in both) and both[0] != both[1]:
                yield _with(node, args=[*node.args[:i], next_one, one, *node.args[i + 2 :]])
    if name == "clip" and len(node.args) == 3:
        yield node.args[0]
