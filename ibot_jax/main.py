"""The command line that trains.

    python -m ibot_jax.main --config=configs/digits.py [--workdir=DIR] [--config.KEY=VALUE ...]

Started again on the same workdir, it resumes. Exit status: 0 complete, 1 the run cannot go on,
2 a mistake in command line, config or data, 130 and 143 ended early by Ctrl-C and SIGTERM; in all
but the third case the state is saved.
"""

import importlib.util
import itertools
import logging
import os
import pathlib
import sys
import traceback

# Before any import that reads them: the screen is for the run, not for its libraries.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from ibot_jax.config_check import check_config, flatten, type_name, unknown_key
from ibot_jax.errors import TrainingError, UserError


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    _quieten()
    try:
        arguments = parse_arguments(sys.argv if argv is None else argv)
        if arguments is None:
            print(__doc__)
            return 0
        config, workdir, allow_config_change = arguments
        check_config(config)
        return _pretrain(config, workdir, allow_config_change)
    except (UserError, TrainingError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:  # before or after the loop, which has its own handler
        print("interrupted", file=sys.stderr)
        return 130


def _pretrain(config: ConfigDict, workdir: str, allow_config_change: bool) -> int:
    import jax

    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    from ibot_jax.pretrain import pretrain

    return pretrain(config, workdir, allow_config_change=allow_config_change)


def parse_arguments(argv: list[str]) -> tuple[ConfigDict, str, bool] | None:
    """Reads the command line.

    Args:
      argv: as in sys.argv.

    Returns:
      The config, locked and with the overrides applied; the workdir; whether a workdir of another
      config is accepted. None if --help was asked for.

    Raises:
      UserError: for whatever does not parse.
    """
    if {"--help", "-h", "-help"} & set(argv[1:]):
        return None
    path = _config_path(argv)
    defaults = _load_config(path)
    _check_overrides(argv, defaults)

    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "a config file", values, lock_config=True, sys_argv=argv
    )
    flags.DEFINE_string("workdir", None, "where the run writes; runs/CONFIG if not given", values)
    flags.DEFINE_boolean(
        "allow_config_change", False, "resume a workdir whose config differs", values
    )
    try:
        rest = values(argv)[1:]
    except flags.IllegalFlagValueError as error:
        raise _illegal_value(error, defaults) from None
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from None
    if rest:
        raise UserError(f"{rest[0]!r} is no flag; overrides are written --config.KEY=VALUE")
    workdir = values.workdir or f"runs/{_config_name(path)}"
    return values.config, workdir, values.allow_config_change


def _config_path(argv: list[str]) -> str:
    """Returns the value of --config=PATH or --config PATH."""
    for argument, following in itertools.pairwise([*argv[1:], ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config" and argument.startswith("-") and (value if equals else following):
            return value if equals else following
    raise UserError("no config is given; begin with --config=configs/digits.py")


def _config_name(path: str) -> str:
    """Returns "cifar10-reference" for "configs/cifar10.py:reference"."""
    file, _, argument = path.partition(":")
    return "-".join(filter(None, [pathlib.Path(file).stem, argument]))


def _load_config(path: str) -> ConfigDict:
    """Loads a config once before config_flags does, whose errors would be tracebacks."""
    file, colon, argument = path.partition(":")
    if not os.path.isfile(file):
        raise UserError(f"--config={path}: there is no file {file}")
    try:
        spec = importlib.util.spec_from_file_location("config_preview", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(*([argument] if colon else []))
    except UserError as error:
        raise UserError(f"--config={path}: {error}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == module.__file__]
        where = f"{file}, line {lines[-1]}" if lines else file
        raise UserError(f"--config={path}: {where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={path}: get_config() returns no ConfigDict")
    return config


def _check_overrides(argv: list[str], config: ConfigDict) -> None:
    """Finds overrides of keys that the config lacks, or of whole sections."""
    flat = flatten(config)
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=", 1)[0]
        if not argument.startswith("-") or not name.startswith("config."):
            continue
        key = name.removeprefix("config.")
        if key in config and isinstance(config[key], ConfigDict):
            raise UserError(f"config.{key} is {type_name(config[key])}")
        if key not in flat:
            raise unknown_key(key)


def _illegal_value(error: flags.Error, config: ConfigDict) -> UserError:
    """Rephrases absl's "flag --config.KEY=VALUE: reason"."""
    text = str(error).removeprefix("flag --config.")
    key, _, value = text.partition("=")
    default = flatten(config).get(key)
    if text == str(error) or default is None:
        return UserError(str(error))
    value = value.split(": ", 1)[0]
    return UserError(f"config.{key}={value} has the wrong type; it takes {type_name(default)}")


def _quieten() -> None:
    """Keeps libraries off the screen; the project's own warnings pass by the progress bar."""
    absl_logging.set_verbosity(absl_logging.FATAL)  # errors of Orbax's threads are raised, too

    class Screen(logging.Handler):
        def emit(self, record):
            tqdm.write(f"warning: {record.getMessage()}", file=sys.stderr)

    logger = logging.getLogger("ibot_jax")
    logger.handlers = [Screen()]
    logger.propagate = False


if __name__ == "__main__":
    sys.exit(main())
