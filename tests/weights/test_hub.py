"""Models of a hub that is not there: what is asked of it, and each of its refusals in one line."""

import sys
import types

import pytest
from foreign_weights import convert, failure, safetensors_bytes, vit

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
    hub.fetch.cache_clear()
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
    hub.fetch("hf://some/model@v1.0")
    assert asked == expected  # once a program: all that it reads is of one commit


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


def test_the_card_keeps_the_commit_and_the_licence(library, tmp_path):
    """Whatever branch or tag was asked for: the folder's name is the commit."""
    folder = tmp_path / "snapshots/0123abcd"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(vit()))
    (folder / "config.json").write_text(
        '{"architecture": "vit_tiny_patch4_16", "num_classes": 0,'
        ' "model_args": {"embed_dim": 32, "num_heads": 4, "patch_size": 4, "img_size": 16}}'
    )
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    library.snapshot_download = lambda name, revision, allow_patterns: str(folder)
    said = convert("hf://some/model@main", tmp_path / "o.npz", "--to=npz")
    assert "hf://some/model@main: folder of timm" in said
    card = (tmp_path / "o.npz.md").read_text()
    assert "converted from hf://some/model@main (folder of timm), revision 0123abcd" in card
    assert "\nlicense: apache-2.0\n" in card


def test_a_hub_that_refuses_leaves_nothing(library, tmp_path):
    def download(*_, **__):
        raise library.errors.GatedRepoError("x")

    library.snapshot_download = download
    message = failure("hf://some/model", tmp_path / "o.npz", "--to=npz")
    assert message.startswith("error: hf://some/model is gated: accept its terms at https://")
    assert not list(tmp_path.iterdir())
