"""Models of a hub that is not there: what is asked of it, and each of its refusals in one line."""

import sys
import types

import pytest

from ibot_jax.errors import UserError
from ibot_jax.weights import hub

ERRORS = ("RepositoryNotFoundError", "GatedRepoError", "RevisionNotFoundError")


@pytest.fixture
def library(monkeypatch):
    """Puts a module in place of huggingface_hub; returns it."""
    found = types.ModuleType("huggingface_hub")
    found.errors = types.ModuleType("huggingface_hub.errors")
    for name in ERRORS:
        base = found.errors.RepositoryNotFoundError if name == "GatedRepoError" else Exception
        setattr(found.errors, name, type(name, (base,), {}))
    monkeypatch.setitem(sys.modules, "huggingface_hub", found)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", found.errors)
    return found


def test_weights_in_safetensors_come_before_pickles(library, tmp_path):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, allow_patterns[-1]))
        if "*.bin" in allow_patterns:
            (tmp_path / "pytorch_model.bin").write_bytes(b"")
        return str(tmp_path)

    library.snapshot_download = download
    assert str(hub.fetch("hf://some/model@v1.0")) == str(tmp_path)
    expected = [("some/model", "v1.0", "*.safetensors"), ("some/model", "v1.0", "*.pth")]
    assert asked == expected


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "is gated: accept its terms at https://huggingface.co/some/model"),
        ("RepositoryNotFoundError", "is not on the hub, or is private"),
        ("RevisionNotFoundError", "has no such revision"),
        ("", "cannot be fetched (ConnectionError: no route); without a network"),
    ],
)
def test_each_refusal_is_one_line(library, error, message):
    def download(*_, **__):
        raise getattr(library.errors, error)("x") if error else ConnectionError("no route\nmore")

    library.snapshot_download = download
    with pytest.raises(UserError) as raised:
        hub.fetch("hf://some/model")
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_an_address_that_is_none(library):
    with pytest.raises(UserError, match="is no hf://ORG/NAME"):
        hub.fetch("hf://model")


def test_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install ibot-jax\[hub\]"):
        hub.fetch("hf://some/model")
