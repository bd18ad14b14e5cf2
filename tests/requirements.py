"""What setup.py asks for."""

import ast
import pathlib

_SETUP = pathlib.Path(__file__).parent.parent / "setup.py"


def requirements_of_setup() -> tuple[list[str], dict[str, list[str]]]:
    """Returns its `install_requires`, and `extras_require` by name."""
    call = ast.parse(_SETUP.read_text()).body[-1].value
    values = {word.arg: word.value for word in call.keywords}
    return tuple(ast.literal_eval(values[name]) for name in ("install_requires", "extras_require"))
