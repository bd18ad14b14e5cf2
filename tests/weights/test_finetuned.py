"""The folder of a fine-tuning is loaded and exported, with its classifier."""

import textwrap

import jax
import numpy as np
import pytest
from etils import epath
from finetuned import NAMES, expected_logits, make_finetuned
from runs import save_run, started
from tiny import tiny_config, tiny_plan

import ibot_jax
from ibot_jax import export
from ibot_jax.convert import __main__ as convert
from ibot_jax.errors import UserError
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.training import jit_init
from ibot_jax.visualize import __main__ as visualize


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("to", "projection"), [("workdir", 8), ("step", 0), ("npz", 8), ("orbax", 0)]
)
def test_a_finetuned_model_classifies_as_it_was_trained_to(tmp_path, images, projection, to):
    folder = epath.Path(tmp_path) / "tuned"
    module, params = make_finetuned(folder, projection=projection)
    path = {"workdir": folder, "step": folder / "checkpoints/4"}.get(to)
    if path is None:
        path = tmp_path / f"out.{to}"
        said = export.export(str(folder), str(path), to=to, head=True)
        assert "step 4, top-1 75.0 %" in said
    model, loaded = ibot_jax.load(str(path), head=True)
    assert model.classifier["names"] == NAMES
    assert model.facts["test_top1"] == 75.0
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    logits = model.class_logits(loaded, images)
    np.testing.assert_allclose(
        logits, expected_logits(module, params, images), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(UserError, match="is fine-tuned: it has a classifier and no projection"):
        model.logits(loaded, model.tokens(loaded, images))


def test_it_classifies_without_this_package(tmp_path, images, capsys):
    """As a program, whose card names the classes."""
    folder, out = tmp_path / "tuned", tmp_path / "tuned.stablehlo"
    module, params = make_finetuned(epath.Path(folder), projection=8)
    flags = "--to=stablehlo", "--head"
    assert convert.main([f"--from={folder}", f"--out={out}", *flags]) == 0, capsys.readouterr()
    logits = expected_logits(module, params, images)
    found = jax.export.deserialize(bytearray(out.read_bytes())).call(images)
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-5)
    card = (tmp_path / "tuned.stablehlo.md").read_text()
    code = card[card.index("import jax\n") : card.index("\n\n##", card.index("import jax\n"))]
    assert "cat" in code and "owl" in code
    capsys.readouterr()
    exec(textwrap.dedent(f"    {code}").replace('"tuned.stablehlo"', repr(str(out))), {})
    black = NAMES[int(expected_logits(module, params, np.zeros_like(images))[0].argmax())]
    assert capsys.readouterr().out.strip() == str([black] * 5)


def test_the_backbone_alone(tmp_path, images):
    folder = epath.Path(tmp_path) / "tuned"
    _, params = make_finetuned(folder)
    export.export(str(folder), str(tmp_path / "x.npz"), to="npz")
    for path in (folder, tmp_path / "x.npz"):
        model, loaded = ibot_jax.load(str(path))
        assert list(loaded) == ["backbone"]
        jax.tree.map(np.testing.assert_array_equal, loaded["backbone"], params["backbone"])
        with pytest.raises(UserError, match="has no classifier; load a fine-tuned model with its"):
            model.class_logits(loaded, images)
    with pytest.raises(UserError, match="holds no classifier|holds no head"):
        ibot_jax.load(str(tmp_path / "x.npz"), head=True)
    with pytest.raises(UserError, match="fine-tuned: it has no student"):
        ibot_jax.load(str(folder), weights="student")
    card = (tmp_path / "x.npz.md").read_text()
    assert "fine-tuned as a classifier" in card
    assert "top-1 75.00 %" in card


def test_a_finetuning_of_an_earlier_version_needs_the_model_that_it_was_made_from(tmp_path):
    config = tiny_config()

    state = jit_init(config, tiny_plan(config), make_mesh())(jax.random.key(0))
    save_run(tmp_path / "run", config, state)
    folder = epath.Path(tmp_path) / "tuned"
    make_finetuned(folder, described=False, source=str(tmp_path / "run"))
    model, params = ibot_jax.load(str(folder), head=True)
    assert model.classifier == {"classes": 3, "names": None, "projection": 0}
    assert params["classifier"]["kernel"].shape == (16, 3)
    (tmp_path / "run/config.json").unlink()
    with pytest.raises(UserError, match="fine-tuned by an earlier version.* is needed to read it"):
        ibot_jax.load(str(folder))


@pytest.mark.parametrize("content", ["{", "[]", '{"config": {}}', '{"config": [], "run": null}'])
def test_a_damaged_description(tmp_path, content):
    folder = epath.Path(tmp_path) / "tuned"
    make_finetuned(folder)
    (folder / "model.json").write_text(content)
    with pytest.raises(UserError, match=r"model\.json is damaged; restore it"):
        ibot_jax.load(str(folder))


def test_who_needs_a_pretraining_says_so(tmp_path):
    folder, config = epath.Path(tmp_path) / "tuned", tiny_config()
    make_finetuned(folder)
    with pytest.raises(UserError, match="is of a fine-tuning; give the workdir of a pre"):
        started(folder, config, None)
    report = ["report", f"--from={folder}", f"--out={tmp_path / 'x.html'}"]
    assert visualize.main(report) == 2
    assert convert.main([str(folder), str(tmp_path / "x.npz"), "--to=npz", "--head"]) == 2
    assert convert.main([str(folder), str(tmp_path / "x.npz"), "--to=npz"]) == 0
    _, params = ibot_jax.load(str(tmp_path / "x.npz"))
    assert list(params) == ["backbone"]
