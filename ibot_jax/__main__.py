"""All commands.

    ibot-jax COMMAND [...]              or  python -m ibot_jax COMMAND [...]
    ibot-jax COMMAND --help

Each is also a module: python -m ibot_jax.COMMAND.

Commands:
"""

import ast
import importlib.util
import pathlib
import runpy
import sys

COMMANDS = {
    "main": "ibot_jax.main",
    "evaluate": "ibot_jax.evaluate",
    "embed": "ibot_jax.embed",
    "visualize": "ibot_jax.visualize",
    "export": "ibot_jax.export",
    "convert": "ibot_jax.convert",
    "bench": "ibot_jax.tools.bench",
    "replay": "ibot_jax.tools.replay",
    "aot": "ibot_jax.tools.aot",
}


def main() -> int:
    """Runs the command line, which ends as the command does."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__ + "\n".join(f"  {name:10}{_summary(COMMANDS[name])}" for name in COMMANDS))
        return 0
    if name not in COMMANDS:
        print(f"error: {name!r} is no command; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [f"ibot-jax {name}", *arguments]
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)
    return 0


def _summary(module: str) -> str:
    """Returns the first line of a command's docstring, without importing what it needs."""
    path = pathlib.Path(importlib.util.find_spec(module).origin)
    if path.name == "__init__.py":
        path = path.with_name("__main__.py")
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
