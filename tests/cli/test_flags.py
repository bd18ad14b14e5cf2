"""A flag that programs share has one spelling; earlier ones go on working."""

import argparse
import ast
import pathlib

import pytest

from ibot_jax import export
from ibot_jax.cli import flags
from ibot_jax.cli.command_line import OneLineParser
from ibot_jax.convert import __main__ as convert
from ibot_jax.embed import __main__ as embed
from ibot_jax.errors import UserError

PACKAGE = pathlib.Path(__file__).parent.parent.parent / "ibot_jax"


def added(path):
    """Yields what a file names in calls of `add_argument` and `add_number`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name in ("add_argument", "add_number"):
                yield from (word.value for word in node.args if isinstance(word, ast.Constant))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_program_defines_a_shared_flag_by_itself(path):
    # The linear evaluation takes several numbers of blocks, which is another type.
    own = {"--blocks"} if path.name == "linear.py" else set()
    assert not (set(added(path)) & flags.SHARED.keys()) - own


@pytest.mark.parametrize(
    ("parse", "now", "then"),
    [
        (export._parse, "--from=a --to=npz --out=b", "--workdir=a --to=npz --out b"),
        (convert._parse, "--from=a --out=b --to=hf --head", "a b --to=hf --head"),
        (convert._parse, "--from=a --out=b --to=hf --head", "--to hf a --head b"),
        (convert._parse, "--from=a --out=b --to=hf", "b --from=a --to=hf"),
        (embed._parse, "--from=a --data=b --out=c", "--from=a --images=b --out=c"),
        (embed._parse, "--from=a --data=b --out=c", "--from=a --images b --out=c"),
        (
            embed._parse,
            "--from=a --data=b --out=c --batch-size=8 --max-pixels 9",
            "--from=a --data=b --out=c --batch_size=8 --max_pixels 9",
        ),
    ],
)
def test_earlier_spellings_mean_the_same(parse, now, then):
    found, before = (vars(parse(words.split())) for words in (now, then))
    assert {**found, "places": None} == {**before, "places": None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a --to=npz", "required: --from, --out"),
        ("a b c --to=npz", "unrecognized arguments: c"),
        ("--from=a b c --to=npz", "unrecognized arguments: c"),
    ],
)
def test_too_few_and_too_many_places(words, message):
    with pytest.raises(UserError, match=message):
        convert._parse(words.split())


def test_a_flag_joined_by_hyphens_is_found_under_its_underscores():
    parser = OneLineParser()
    flags.add(parser, "--num_processes")
    assert parser.parse_args(["--num-processes=3"]).num_processes == 3
    with pytest.raises(UserError, match="unrecognized arguments: --num_process=3"):
        parser.parse_args(["--num_process=3"])


def test_the_help_tells_defaults():
    parser = OneLineParser()
    flags.add(parser, "--step", "--overwrite", "--data-dir")
    flags.add(parser, "--batch-size", default=64)
    text = " ".join(parser.format_help().split())
    assert "best by its accuracy (default: latest)" in text
    assert "all devices (default: 64)" in text
    assert text.count("default") == 2


@pytest.mark.parametrize("text", ["cls", "cls+mean", "pixels", "top1", "top196"])
def test_kinds_of_features_are_words_or_a_number_of_patches(text):
    assert flags.feature_kind(text) == text


@pytest.mark.parametrize("text", ["top", "top0", "topten", "10", "cls+"])
def test_what_is_no_kind_of_features_is_told(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is none of cls, mean, cls.mean, pixels"):
        flags.feature_kind(text)
