"""Commands of a program, each in a module of its own.

A command's module has a docstring, which is its help, `add_arguments(parser)` and `run(args)`. It
is imported alone: not every machine has what the others need.
"""

import argparse
import ast
import importlib
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType

from ibot_jax.cli import exits
from ibot_jax.cli.command_line import OneLineParser, print_help
from ibot_jax.errors import UserError


def parse(
    argv: Sequence[str],
    program: str,
    commands: Mapping[str, str],
    *,
    noun: str,
    doc: str,
    former: Mapping[str, str] | None = None,
) -> tuple[ModuleType, argparse.ArgumentParser, argparse.Namespace] | None:
    """Reads a command line that begins with a command.

    Args:
      argv: without the program's name.
      program: dotted, what is run.
      commands: the module of each, dotted, by its name.
      noun: what they are called.
      doc: printed before a line for each command where there is none, or --help.
      former: earlier spellings of flags, see `OneLineParser`.

    Returns:
      The command's module, its parser and its flags; None where help was asked for and printed. A
      command with the flag --config finds the overrides, --config.KEY=VALUE, in `overrides`.

    Raises:
      UserError: for whatever does not parse.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print_help(f"{doc}{listing(commands)}\n\n{exits.listing()}")
        return None
    name, *flags = argv
    if name not in commands:
        raise UserError(f"{name!r} is no {noun}; there are {', '.join(commands)}")
    module = importlib.import_module(commands[name])
    parser = OneLineParser(
        prog=f"python -m {program} {name}", description=module.__doc__, former=former
    )
    module.add_arguments(parser)
    args, unknown = parser.parse_known_args(flags)
    if "config" in args:
        args.overrides = unknown  # which argparse cannot know
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return module, parser, args


def listing(commands: Mapping[str, str]) -> str:
    """Returns a line for each command, the first one of its docstring; imports none of them.

    Args:
      commands: the module of each, dotted, or its package, which is run as a program.
    """
    return "\n".join(f"  {name:16}{_summary(module)}" for name, module in commands.items())


def _summary(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec and spec.origin, module
    path = pathlib.Path(spec.origin)
    if path.name == "__init__.py":
        path = path.with_name("__main__.py")
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
