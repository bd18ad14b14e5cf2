"""Loading a model gives what the run or the export holds, from wherever it lies."""

import functools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from runs import save_run, started
from tiny import normalized, tiny_config, tiny_plan

import ibot_jax
from ibot_jax import export
from ibot_jax.errors import UserError
from ibot_jax.methods.state import teacher_params
from ibot_jax.models.build import build_backbone, build_head
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.training import make_init
from ibot_jax.weights.load import untrained
from ibot_jax.weights.sanity import check_finite


@pytest.fixture(scope="module")
def config():
    return tiny_config(data__mean=(0.5, 0.25, 0.125), head__prototypes=12)


@pytest.fixture(scope="module")
def state(config):
    state = make_init(config, tiny_plan(config))(jax.random.key(0))
    moved = jax.tree.map(lambda x: x * 2, state.opt_state)  # the teacher is in there
    return jax.device_put(
        state.replace(step=state.step + 3, opt_state=moved), replicated(make_mesh())
    )


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
    features = build_backbone(config.model, config.data.global_size, config.dtype).apply(
        {"params": expected["backbone"]}, normalized(config, images)
    )
    found = model.features(params, images)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, features)
    tokens = model.tokens(params, images)
    assert tokens.shape == (2, 1 + 6 * 4, 16)
    np.testing.assert_array_equal(tokens[:, 0], found.cls)
    np.testing.assert_array_equal(tokens[:, 1:].reshape(2, 6, 4, 16), found.patches)
    layers = model.last_layers(params, images, 2)
    np.testing.assert_allclose(layers[-1], tokens, atol=1e-5)
    attention = model.last_attention(params, images)
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
    named = model.attention(params, images)
    np.testing.assert_array_equal(named.weights, attention)
    assert named.cls.shape == (2, 2, 6, 4)
    class_logits, patch_logits = model.logits(params, tokens)
    expected_logits = build_head(config.head, config.dtype, teacher=True).apply(
        {"params": expected["head"]}, tokens
    )
    np.testing.assert_allclose(class_logits, expected_logits[0], atol=1e-5)
    np.testing.assert_allclose(patch_logits, expected_logits[1], atol=1e-5)


def test_the_student_is_another_set_of_weights(workdir, state):
    _, params = ibot_jax.load(workdir, weights="student")
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], state.params["backbone"])
    assert set(params) == {"backbone"}


def test_a_student_is_not_what_holds_the_teacher_alone(workdir, tmp_path):
    export.export(workdir, str(tmp_path / "out.npz"), to="npz")
    with pytest.raises(UserError, match=r"out.npz holds no student, only the teacher"):
        ibot_jax.load(str(tmp_path / "out.npz"), weights="student")


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
    with pytest.raises(UserError, match="holds no head; export it anew with head"):
        ibot_jax.load(str(tmp_path / "headless.npz"), head=True)
    with pytest.raises(UserError, match="there are latest, best, 3"):
        ibot_jax.load(workdir, step="4")


@pytest.fixture(scope="module")
def loaded(workdir):
    return ibot_jax.load(workdir)


def test_floating_images_say_what_they_are(loaded, config):
    model, params = loaded
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    unit = pixels.astype(np.float64) / 255
    standard = (unit - config.data.mean) / config.data.std
    for method, arguments in (("tokens", ()), ("last_layers", (2,)), ("last_attention", ())):
        call = functools.partial(getattr(model, method), params)
        expected = call(pixels, *arguments)
        for images, floats in ((unit, "unit"), (standard, "normalized")):
            for dtype in (np.float32, np.float64):
                found = call(images.astype(dtype), *arguments, floats=floats)
                np.testing.assert_allclose(found, expected, atol=1e-5)
            with pytest.raises(UserError, match=r"float32, which may be pixels or normalised"):
                call(images.astype(np.float32), *arguments)
    jitted = jax.jit(functools.partial(model.tokens, floats="unit"))
    np.testing.assert_allclose(
        jitted(params, unit.astype(np.float32)), model.tokens(params, pixels), atol=1e-5
    )


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "bool", "complex64"]
)
def test_other_numbers_are_no_images(loaded, dtype):
    model, params = loaded
    for floats in (None, "unit", "normalized"):
        with pytest.raises(UserError, match=f"images are {dtype}; give uint8"):
            model.tokens(params, np.ones((1, 16, 16, 3), dtype), floats=floats)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((16, 16, 3), np.uint8), r"\(16, 16, 3\), not \[B, H, W, 3\]; .* images\[None\]"),
        (np.zeros((1, 2, 16, 16, 3), np.uint8), r"not \[B, H, W, 3\]$"),
        (np.zeros((1, 3, 16, 16), np.uint8), r"images\.transpose\(0, 2, 3, 1\) puts them last"),
        (np.zeros((1, 16, 16, 1), np.uint8), "of the model's 3 channels$"),
        (np.zeros((1, 17, 18, 3), np.uint8), "17x18 pixels, .* of 4x4; .* to 16x16"),
        (np.zeros((1, 3, 16, 3), np.uint8), "3x16 pixels, .* of 4x4; .* to 4x16"),
        (np.zeros((1, 0, 16, 3), np.uint8), "0x16 pixels"),
    ],
)
def test_images_of_another_shape_are_told_what_to_do(loaded, images, message):
    model, params = loaded
    with pytest.raises(UserError, match=message):
        model.tokens(params, images)


def test_what_becomes_an_array_may_be_given(loaded):
    model, params = loaded
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)

    class Tensor:  # as PyTorch's: a dtype of its own, and an array on demand
        dtype = "torch.uint8"

        def __array__(self, dtype=None, copy=None):
            return pixels

    np.testing.assert_array_equal(model.tokens(params, Tensor()), model.tokens(params, pixels))
    with pytest.raises(UserError, match="images are int64; give uint8"):
        model.tokens(params, pixels.tolist())


def test_pixels_that_are_not_from_0_to_1_are_no_unit_ones(loaded):
    model, params = loaded
    images = np.full((1, 16, 16, 3), 255.0, np.float32)
    with pytest.raises(UserError, match=r"from 255 to 255, and floats='unit' are from 0 to 1"):
        model.tokens(params, images, floats="unit")
    with pytest.raises(UserError, match=r"floats='pixels' is unknown"):
        model.tokens(params, images, floats="pixels")


def test_errors_of_calls_name_arguments_and_no_flags(workdir, tmp_path):
    out = str(tmp_path / "x.npz")
    export.export(workdir, out, to="npz")
    for call in (
        lambda: ibot_jax.load(workdir, step="4"),
        lambda: ibot_jax.load(workdir, weights="pupil"),
        lambda: ibot_jax.load(workdir, dtype="float16"),
        lambda: ibot_jax.load(out, head=True),
        lambda: export.export(workdir, out, to="npz"),
        lambda: export.export(workdir, str(tmp_path / "y"), to="zip"),
        lambda: export.export(str(tmp_path), str(tmp_path / "y"), to="npz"),
        lambda: export.export(workdir, str(tmp_path / "y"), to="npz", step="4"),
    ):
        with pytest.raises(UserError) as error:
            call()
        assert "--" not in str(error.value)
    with pytest.raises(UserError, match=r"^step=4 is not in .*; there are latest, best, 3"):
        ibot_jax.load(workdir, step="4")


def test_a_model_prints_as_one_short_line(workdir):
    model, _ = ibot_jax.load(workdir)
    assert "\n" not in str(model)
    assert len(str(model).replace(workdir, "")) < 120
    for part in ("teacher", "step=3", "width 16", "depth 2", "16x16"):
        assert part in repr(model)


@pytest.mark.slow
def test_loading_prints_nothing(workdir):
    """In a process of its own, where nobody has told the libraries to be quiet."""
    code = f"import ibot_jax; ibot_jax.load({workdir!r}); import warnings; warnings.warn('mine')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[0].endswith("UserWarning: mine")


def test_a_description_that_lacks_something_names_it(workdir, tmp_path):
    export.export(workdir, str(tmp_path / "out"), to="orbax")
    file = tmp_path / "out" / "config.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in description.items() if k != "mean"}))
    with pytest.raises(UserError, match="does not say its mean"):
        ibot_jax.load(str(tmp_path / "out"))
    file.write_text(json.dumps(description | {"std": [58.395, 57.12, 57.375]}))
    with pytest.raises(UserError, match=r"std=58.395,57.12,57.375 .*; divide it by 255"):
        ibot_jax.load(str(tmp_path / "out"))
    for changes, message in (
        ({"mean": 0.5}, r"mean=0.5 is not of pixels"),
        ({"mean": "grey"}, r"mean=grey is not of pixels"),
        ({"std": [0.5]}, r"data.std for other than the 3 channels"),
        ({"global_size": "16x16"}, r"data.global_size='16x16', which has the wrong type"),
        ({"channels": 0}, r"data.channels=0, which must be from 1 to 32"),
        ({"model": []}, r"has model=\[\]; export or convert it anew"),
        ({"model": description["model"] | {"depth": -1}}, r"model.depth=-1, which must be"),
        ({"model": description["model"] | {"heads": 3}}, r"no model that can be built"),
        ({"model": description["model"] | {"depth": 1}}, r"weights of another architecture"),
    ):
        file.write_text(json.dumps(description | changes))
        with pytest.raises(UserError, match=message):
            ibot_jax.load(str(tmp_path / "out"))
    file.write_text("[]")
    with pytest.raises(UserError, match=r"damaged \(its config is a list\)"):
        ibot_jax.load(str(tmp_path / "out"))
    file.write_text(json.dumps(description | {"model": description["model"] | {"wings": 2}}))
    with pytest.raises(UserError, match=r"another version of ibot_jax: .*wings"):
        ibot_jax.load(str(tmp_path / "out"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_wherever_they_are_used(
    tmp_path, config, state, value
):
    """By what reads a model, by what exports it, and by a run that starts from it."""
    kernel = state.params["backbone"]["blocks_0"]["mlp"]["fc1"]["kernel"]
    params = jax.tree.map(lambda x: x, state.params)
    params["backbone"]["blocks_0"]["mlp"]["fc1"]["kernel"] = kernel.at[3, 5].set(value)
    workdir = str(save_run(tmp_path / "run", config, state.replace(params=params)))
    named = r"NaN or infinities in backbone.blocks_0.mlp.fc1.kernel"
    with pytest.raises(UserError, match=named):
        ibot_jax.load(workdir, weights="student")
    with pytest.raises(UserError, match=named):
        export.export(workdir, str(tmp_path / "out.npz"), to="npz", weights="student")
    assert not (tmp_path / "out.npz").exists()
    with pytest.raises(UserError, match=named):
        started(workdir, config, state)
    with pytest.raises(UserError, match=r"here holds x as int32; weights are floating-point"):
        check_finite({"x": np.ones(3, np.int32)}, "here")
    huge = {"x": np.array([1.0, -1e300])}  # finite, but not as what a model makes of it
    with pytest.raises(UserError, match=r"here holds NaN or infinities in x"):
        check_finite(huge, "here")
    ibot_jax.load(workdir)  # the teacher is sound
