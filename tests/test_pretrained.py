"""Loading a model gives what the run or the export holds, from wherever it lies."""

import json

import jax
import numpy as np
import pytest
from runs import save_run
from tiny import normalized, tiny_config, tiny_plan

import ibot_jax
from ibot_jax import export, models, sharding
from ibot_jax.errors import UserError
from ibot_jax.pretrained import untrained
from ibot_jax.step import make_init, teacher_params


@pytest.fixture(scope="module")
def config():
    return tiny_config(data__mean=(0.5, 0.25, 0.125), head__prototypes=12)


@pytest.fixture(scope="module")
def state(config):
    state = make_init(config, tiny_plan(config))(jax.random.key(0))
    moved = jax.tree.map(lambda x: x * 2, state.opt_state)  # the teacher is in there
    replicated = sharding.replicated(sharding.make_mesh())
    return jax.device_put(state.replace(step=state.step + 3, opt_state=moved), replicated)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, config, state):
    return str(save_run(tmp_path_factory.mktemp("runs") / "mine", config, state, knn_top1=40.0))


@pytest.fixture(params=["workdir", "checkpoint", "orbax", "npz", "safetensors"])
def path(request, workdir, tmp_path):
    if request.param == "workdir":
        return workdir
    if request.param == "checkpoint":
        return f"{workdir}/checkpoints/3"
    suffix = "" if request.param == "orbax" else f".{request.param}"
    out = f"{tmp_path}/exported{suffix}"
    export.export(workdir, out, to=request.param, head=True)
    return out


def test_every_kind_of_path_gives_the_teacher_and_what_it_computes(path, config, state):
    model, params = ibot_jax.load(path, head=True)
    expected = teacher_params(state)
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(expected))
    assert model.facts["step"] == 3 and model.facts["weights"] == "teacher"

    images = np.random.default_rng(0).integers(0, 256, (2, 24, 16, 3), dtype=np.uint8)
    tokens = models.build_backbone(config).apply(
        {"params": expected["backbone"]}, normalized(config, images)
    )
    assert tokens.shape == (2, 1 + 6 * 4, 16)
    np.testing.assert_allclose(model.tokens(params, images), tokens, atol=1e-5)
    layers = model.last_layers(params, images, 2)
    np.testing.assert_allclose(layers[-1], tokens, atol=1e-5)
    attention = model.last_attention(params, images)
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
    class_logits, patch_logits = model.logits(params, tokens)
    expected_logits = models.build_head(config, teacher=True).apply(
        {"params": expected["head"]}, tokens
    )
    np.testing.assert_allclose(class_logits, expected_logits[0], atol=1e-5)
    np.testing.assert_allclose(patch_logits, expected_logits[1], atol=1e-5)


def test_the_student_is_another_set_of_weights(workdir, state):
    _, params = ibot_jax.load(workdir, weights="student")
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], state.params["backbone"])
    assert set(params) == {"backbone"}


def test_a_model_before_its_training_is_what_the_run_started_from(workdir, state):
    """This state's student was never trained."""
    model, params = untrained(ibot_jax.load(workdir)[0], head=True)
    assert model.facts == {"weights": "random", "step": 0}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, state.params)


def test_a_path_without_a_model_is_told_in_words(workdir, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        ibot_jax.load(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no run's workdir, checkpoint or export"):
        ibot_jax.load(str(tmp_path))
    (tmp_path / "weights.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"python -m ibot_jax\.convert"):
        ibot_jax.load(str(tmp_path / "weights.pth"))
    (tmp_path / "broken.npz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"broken\.npz is no export of ibot_jax, or is damaged"):
        ibot_jax.load(str(tmp_path / "broken.npz"))
    export.export(workdir, str(tmp_path / "headless.npz"), to="npz")
    with pytest.raises(UserError, match="holds no head; export it anew with --head"):
        ibot_jax.load(str(tmp_path / "headless.npz"), head=True)
    with pytest.raises(UserError, match="there are latest, best, 3"):
        ibot_jax.load(workdir, step="4")


def test_a_description_that_lacks_something_names_it(workdir, tmp_path):
    export.export(workdir, str(tmp_path / "out"), to="orbax")
    file = tmp_path / "out" / "config.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in description.items() if k != "mean"}))
    with pytest.raises(UserError, match="does not say its mean"):
        ibot_jax.load(str(tmp_path / "out"))
    file.write_text(json.dumps(description | {"model": description["model"] | {"wings": 2}}))
    with pytest.raises(UserError, match=r"another version of ibot_jax: .*wings"):
        ibot_jax.load(str(tmp_path / "out"))
