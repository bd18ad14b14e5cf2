"""All commands.

    ibot-jax COMMAND [...]              or  python -m ibot_jax COMMAND [...]
    ibot-jax COMMAND --help

Each is also a module: python -m ibot_jax.COMMAND.

Commands:
"""

import runpy
import sys

from ibot_jax.cli import exits
from ibot_jax.cli.subcommands import listing

COMMANDS = {
    "main": "ibot_jax.main",
    "evaluate": "ibot_jax.evaluate",
    "embed": "ibot_jax.embed",
    "predict": "ibot_jax.predict",
    "visualize": "ibot_jax.visualize",
    "export": "ibot_jax.export",
    "convert": "ibot_jax.convert",
    "data": "ibot_jax.tools.data",
    "bench": "ibot_jax.tools.bench",
    "replay": "ibot_jax.tools.replay",
    "aot": "ibot_jax.tools.aot",
}


def main() -> int:
    """Runs the command line, which ends as the command does."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"{__doc__}{listing(COMMANDS)}")
        return exits.COMPLETE
    if name not in COMMANDS:
        print(f"error: {name!r} is no command; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return exits.MISTAKE
    sys.argv = [f"ibot-jax {name}", *arguments]
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)
    return exits.COMPLETE


if __name__ == "__main__":
    sys.exit(main())
