"""A config file and overrides of its keys, among the arguments of a command.

    --config=CONFIG[:ARGUMENT] --config.KEY=VALUE ...

CONFIG is a file, or the name of one that comes with the project: `vits16`, `finetune/vits16`. Of a
key that is given twice the last value counts. Whatever does not parse is a UserError, found before
anything slow is imported.
"""

import argparse
import importlib.util
import itertools
import pathlib
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from ibot_jax.cli.command_line import print_help
from ibot_jax.config import defaults
from ibot_jax.config.flat import Flat, flatten
from ibot_jax.config.hints import unknown_key
from ibot_jax.config.keys import Keys, Kind, type_name
from ibot_jax.config.listing import listing
from ibot_jax.config.problems import refuse
from ibot_jax.errors import UserError

_PACKAGE = pathlib.Path(__file__).parent.parent
# Where an installed package has them, and where the repository does.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def add_config_arguments(
    parser: argparse._ActionsContainer,
    *,
    default: str | None = None,
    keys: Keys = defaults.KEYS,
    sections: dict[str, str] = defaults.SECTIONS,
) -> None:
    """Adds --config, and --help=config, which lists its keys.

    Overrides are left for `given_config`, since argparse cannot know them.

    Args:
      parser: of the command, or a group of its flags.
      default: the config where none is given; None where one must be.
      keys: of the config.
      sections: of what each section speaks.
    """

    class ListKeys(argparse.Action):
        def __call__(self, *_: Any) -> NoReturn:
            print_help(listing(keys, sections))
            raise SystemExit(0)

    parser.add_argument(
        "--config",
        required=default is None,
        default=default,
        metavar="CONFIG",
        help="a file, or the name of one that comes with the project; override its keys with "
        "--config.KEY=VALUE",
    )
    parser.add_argument("--help=config", action=ListKeys, nargs=0, help="list every key and exit")


def given_config(
    arguments: argparse.Namespace,
    *,
    folder: str = "",
    check: Callable[[Flat, bool], list[str]] = lambda flat, wrong: [],
) -> ConfigDict:
    """Returns the config that the arguments of a command name, with their overrides.

    Args:
      arguments: with `config`, see `add_config_arguments`, and `overrides`, a list of arguments.
      folder: see `parse_config`, as the next.
      check: likewise.

    Raises:
      UserError: with all mistakes.
    """
    argv = ["", f"--config={arguments.config}", *arguments.overrides]
    return parse_config(argv, flags.FlagValues(), folder=folder, check=check)


def parse_config(
    argv: list[str],
    values: flags.FlagValues,
    *,
    folder: str = "",
    check: Callable[[Flat, bool], list[str]] = lambda flat, wrong: [],
) -> ConfigDict:
    """Reads a command line of flags with a config among them.

    Args:
      argv: as in sys.argv.
      values: the other flags that it may hold; their values are set.
      folder: of configs that is searched for a name before the others.
      check: returns what is wrong with the config, flattened, given whether something does not
        parse; all is told together.

    Returns:
      The config, locked, with the overrides applied, and checked.

    Raises:
      UserError: with all mistakes.
    """
    given = config_path(argv)
    file = _find(given, folder)
    default = _load(given, file)
    overrides, others = _split(argv, flatten(default))
    found = _not_keys(overrides, default)
    overrides = {key: text for key, text in overrides.items() if key in flatten(default)}
    try:
        rest = values([argv[0], *(_joined(word, values) for word in others)])[1:]
        found += [f"{word!r} is no flag; overrides are written --config.KEY=VALUE" for word in rest]
    except flags.Error as error:
        found.append(f"{error}; see --help")
    for key, text in list(overrides.items()):
        try:
            _read(file, {key: text})
        except flags.IllegalFlagValueError:
            value = flatten(default)[key]
            takes = type_name(defaults.KEYS[key].default if value is None else value)
            found.append(f"config.{key}={overrides.pop(key)} has the wrong type; it takes {takes}")
    config = _read(file, overrides)
    refuse([*found, *check(flatten(config), bool(found))])
    return config


def _joined(word: str, values: flags.FlagValues) -> str:
    """Returns a flag whose words are joined by "-" as it is called, joined by "_"."""
    flag, equals, value = word.partition("=")
    name = flag.lstrip("-").replace("-", "_")
    return f"--{name}{equals}{value}" if flag.startswith("--") and name in values else word


def config_path(argv: list[str]) -> str:
    """Returns the value of the last --config=CONFIG or --config CONFIG.

    Raises:
      UserError: if there is none.
    """
    path = ""
    for argument, following in itertools.pairwise([*argv[1:], ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config" and argument.startswith("-"):
            path = value if equals else following
    if not path:
        raise UserError(f"no config is given; begin with --config=digits, or {_names()}")
    return path


def recipe_in_words(argv: list[str], config: ConfigDict) -> str:
    """Returns the config that a command line names, and in what else would be learned by it.

    Args:
      argv: as in sys.argv.
      config: that `parse_config` made of it.
    """
    given = config_path(argv)
    file, colon, argument = given.partition(":")
    name = f"{pathlib.Path(file).stem}{colon}{argument}"
    before = flatten(_load(given, _find(given, "")))
    changed = [
        f"{key}={value!r} (there {before[key]!r})"
        for key, value in flatten(config).items()
        if value != before[key] and key in defaults.KEYS
        if defaults.KEYS[key].kind is Kind.LEARNED
    ]
    return f"{name}; departs from it in {', '.join(changed)}" if changed else f"{name}, as it is"


def config_names() -> list[str]:
    """Returns the names of the configs that come with the project."""
    found: dict[str, None] = {}
    for root in _FOLDERS:
        for file in sorted(root.glob("*.py")) + sorted(root.glob("*/*.py")):
            found[file.relative_to(root).with_suffix("").as_posix()] = None
    return list(found)


def _names() -> str:
    *names, last = config_names()
    return f"{', '.join(names)} or {last}"


def _find(given: str, folder: str) -> str:
    """Returns the file, with its argument, that a path or a name stands for."""
    path, colon, argument = given.partition(":")
    name = path.removeprefix("configs/").removesuffix(".py")
    candidates = [pathlib.Path(path)]
    for root in _FOLDERS:
        candidates += [root / folder / f"{name}.py", root / f"{name}.py"]
    for file in candidates:
        if file.is_file():
            return f"{file}{colon}{argument}"
    raise UserError(f"--config={given}: there is no file {path}; by name there are {_names()}")


def _load(given: str, path: str) -> ConfigDict:
    """Loads a config once before config_flags does, whose errors would be tracebacks."""
    file, colon, argument = path.partition(":")
    try:
        spec = importlib.util.spec_from_file_location("config_preview", file)
        assert spec and spec.loader, file
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(*([argument] if colon else []))
    except UserError as error:
        raise UserError(f"--config={given}: {error}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == module.__file__]
        where = f"{file}, line {lines[-1]}" if lines else file
        raise UserError(f"--config={given}: {where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={given}: get_config() returns no ConfigDict")
    return config


def _split(argv: list[str], flat: dict) -> tuple[dict[str, str], list[str]]:
    """Takes --config and its overrides out of a command line.

    Returns:
      The overrides, {"optim.lr": "1e-3"}, and the other arguments.
    """
    overrides, others = {}, []
    arguments = iter(argv[1:])
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name.split(".")[0] != "config":
            others.append(argument)
            continue
        key = name.removeprefix("config").removeprefix(".")
        if not equals:  # the next argument is the value, or there is none and it is true
            value = "true" if isinstance(flat.get(key), bool) else next(arguments, "")
        if key:
            overrides[key] = value
    return overrides, others


def _not_keys(overrides: dict[str, str], config: ConfigDict) -> list[str]:
    """Returns what is wrong with overrides of keys that the config lacks, or of whole sections."""
    flat, found = flatten(config), []
    for key in overrides:
        if key in config and isinstance(config[key], ConfigDict):
            found.append(f"config.{key} is a section; set its keys one by one")
        elif key not in flat:
            found.append(unknown_key(key, flat))
    return found


def _read(file: str, overrides: dict[str, str]) -> ConfigDict:
    """Reads a config file with overrides as ml_collections does."""
    values = flags.FlagValues()
    argv = ["", f"--config={file}", *(f"--config.{key}={text}" for key, text in overrides.items())]
    config_flags.DEFINE_config_file(
        "config", None, "a config file", values, lock_config=True, sys_argv=argv
    )
    values(argv)
    return values.config
