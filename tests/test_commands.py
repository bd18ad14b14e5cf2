"""README.md and docs/ name commands, files and extras that there are."""

import re

import pytest
from documented import PAGES, ROOT, commands, read
from requirements import requirements_of_setup

from ibot_jax.errors import UserError

COMMANDS = [command for page in PAGES for command in commands(page)]


@pytest.mark.parametrize("command", COMMANDS, ids=[command.where for command in COMMANDS])
def test_programs_read_the_commands_of_the_docs(command, monkeypatch, capsys):
    try:
        read(command, monkeypatch)
    except Exception as error:
        pytest.fail(f"{command.where}: {error or capsys.readouterr().err}", pytrace=False)


def test_what_does_not_parse_is_told(tmp_path, monkeypatch):
    """A page with mistakes of several kinds, in a sentence and in blocks."""
    page = tmp_path / "page.md"
    page.write_text(
        "Text `python -m ibot_jax.embed --nearest=3`.\n\n"
        "    python -m ibot_jax.main --config=vits16 \\\n        --config.optim.lrr=1\n"
        "    launch/slurm.sh --nodes=2 -- --config=nothing\n"
        "    python -m ibot_jax.tools.bench step --config=vits16 --config.seed=x  # so\n"
        "    python -m ibot_jax.tools.nothing\n"
    )
    monkeypatch.setattr("documented.ROOT", tmp_path)
    expected = (
        ("page.md, line 1", AssertionError, "unrecognized arguments: --nearest=3"),
        ("page.md, line 3", UserError, "optim.lrr"),
        ("page.md, line 5", UserError, "no file nothing"),
        ("page.md, line 6", UserError, "config.seed=x has the wrong type"),
        ("page.md, line 7", ImportError, "ibot_jax.tools.nothing"),
    )
    for command, (where, kind, text) in zip(commands(page), expected, strict=True):
        assert command.where == where
        with monkeypatch.context() as patch, pytest.raises(kind, match=re.escape(text)):
            read(command, patch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_scripts_and_extras_of_the_docs_are_there(page):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    scripts = re.findall(r"(?<![/\w])((?:docs|tests|launch|\.ci)/[\w/.-]*\w)", text)
    assert not [path for path in scripts if not (ROOT / path).exists()]
    extras = re.findall(r"(?:\.|ibot-jax)\[([a-z,]+)\]", text)
    assert {extra for some in extras for extra in some.split(",")} <= set(
        requirements_of_setup()[1]
    )


def test_errors_name_extras_that_are_there():
    texts = [path.read_text() for path in ROOT.glob("ibot_jax/**/*.py")]
    named = {name for text in texts for name in re.findall(r"ibot-jax\[([a-z]+)\]", text)}
    assert {"hub", "aot"} <= named <= set(requirements_of_setup()[1])
