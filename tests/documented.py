"""Commands as README.md and docs/ write them: found, and read by the programs' own parsers."""

import dataclasses
import importlib
import pathlib
import re
import shlex

from ibot_jax.__main__ import COMMANDS
from ibot_jax.cli.command_line import OneLineParser
from ibot_jax.cli.config_file import given_config
from ibot_jax.main import parse_arguments

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
# What stands for one of several words, and one of them.
_STAND_INS = {
    "TASK": "knn",
    "FIGURE": "attention",
    "--to=FORMAT": "--to=npz",
    "--config=...": "--config=vits16",
    "--batch-size=...": "--batch-size=64",
}


@dataclasses.dataclass(frozen=True)
class Command:
    """A command in a page.

    Attributes:
      where: the page, and which line of it.
      module: that is run.
      words: its arguments.
      whole: whether it stands in a block of its own; in a sentence it may lack what it needs.
    """

    where: str
    module: str
    words: tuple[str, ...]
    whole: bool


class _Read(BaseException):
    """Ends a program when its command line is read."""


def commands(page: pathlib.Path) -> list[Command]:
    """Returns the commands of a page, in order, each once."""
    text = page.read_text()
    found = {}
    for match in re.finditer(r"^(?: {4}|\t)((?:.*\\\n)*.*)$|(?<!`)`([^`]+)`", text, re.MULTILINE):
        line = text.count("\n", 0, match.start()) + 1
        block, inline = match.groups()
        where = f"{page.relative_to(ROOT)}, line {line}"
        for module, words in _programs(re.sub(r"\s*\\?\n\s*", " ", block or inline)):
            found.setdefault((module, words), Command(where, module, words, block is not None))
    return list(found.values())


def _programs(line: str):
    """Yields module and arguments of the programs of this package that a line runs."""
    launched = re.match(r"launch/\S+\.sh .* -- (.*)", line)
    if launched:
        yield "ibot_jax.main", _arguments(launched[1])
    for name, rest in re.findall(r"(?:python -m (ibot_jax\.[\w.]+)\b)([^|;&]*)", line):
        yield name, _arguments(rest)
    for name, rest in re.findall(r"(?:ibot-jax|python -m ibot_jax) ([a-z]+)\b([^|;&]*)", line):
        yield COMMANDS[name], _arguments(rest)


def _arguments(text: str) -> tuple[str, ...]:
    """Returns words, those in brackets included, without dots and what stands for any key."""
    text = re.sub(r"\s>.*", "", text.replace("${size}", "s"))
    text = re.sub(r"\[(--[^\]]*)\]", r"\1", text.replace("[...]", ""))
    words = [_STAND_INS.get(word, word) for word in shlex.split(text, comments=True)]
    return tuple(word for word in words if word not in ("...", "--config.KEY=VALUE"))


def read(command: Command, monkeypatch) -> None:
    """Reads a command's arguments as its program does, config and all.

    Raises:
      AssertionError: with what the program says of it.
    """
    if command.module == "ibot_jax.main":
        if command.whole:
            parse_arguments(["", *command.words])
        return
    original = OneLineParser.parse_known_args

    def stop(parser, args=None, namespace=None):
        for action in parser._actions:
            action.required = action.required and command.whole
        raise _Read(*original(parser, args, namespace))

    monkeypatch.setattr(OneLineParser, "parse_known_args", stop)
    try:
        module = importlib.import_module(command.module)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{command.module}.__main__")
        if not hasattr(module, "main"):  # a script without flags
            assert not command.words, f"{command.module} takes no arguments"
            return
        status = module.main(list(command.words))
    except SystemExit:  # after --help
        return
    except _Read as ended:
        values, rest = ended.args
    else:
        assert not status, ""  # what it says of it is on stderr
        return
    if getattr(values, "config", None) is None:
        assert not rest, f"unrecognized arguments: {' '.join(rest)}"
    else:
        values.overrides = rest
        given_config(values, folder="finetune")
