"""A frozen network of another architecture teaches: read once, never changed, in no checkpoint."""

import re

import jax
import numpy as np
import pytest
import scipy.special
from etils import epath
from foreign_weights import convert, prefixed, projection_head, vit
from tiny import normalized, tiny_batch, tiny_config, tiny_plan

from ibot_jax.config import flatten
from ibot_jax.errors import UserError
from ibot_jax.kernels.choice import choose
from ibot_jax.kernels.devices import Device
from ibot_jax.methods.state import teacher_params
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs import frozen as frozen_networks
from ibot_jax.runs import training
from ibot_jax.runs.checkpoint import Checkpoints
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model
from ibot_jax.weights.write import write_npz

KEY = jax.random.key(0)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def teacher():
    """Returns a network that is wider, deeper and of more heads than the tiny student."""
    config = tiny_config(model__width=24, model__depth=3, model__heads=3, head__bottleneck_dim=10)
    model, params = untrained(Model(config, "teacher"), head=True)
    return model.description(head=True), jax.device_get(params)


@pytest.fixture
def export(teacher, tmp_path):
    path = epath.Path(tmp_path / "teacher.npz")
    write_npz(path, teacher[1], teacher[0], "")
    return path


def read(config, workdir, mesh, *, resumed=False):
    return frozen_networks.read_frozen(flatten(config), workdir, mesh, resumed=resumed)


def config_of(export, **overrides):
    # Without decay and with sharp targets, so that the loss tells of learning.
    settings = dict(
        optim__lr=0.3, optim__warmup="0 epochs", optim__clip=0.0, loss__teacher_temp_start=0.02
    )
    settings |= dict(method="distillation", frozen__teacher=str(export))
    return tiny_config(**settings | overrides)


@pytest.mark.slow
def test_a_student_learns_from_a_wider_network_and_resumes_without_its_file(
    teacher, export, tmp_path
):
    workdir, mesh = epath.Path(tmp_path / "run"), make_mesh(fsdp=2, tensor=2)
    config = config_of(export)
    plan, batch = tiny_plan(config, steps_per_epoch=6), tiny_batch(config)
    frozen = read(config, workdir, mesh)
    assert {x.dtype for x in jax.tree.leaves(frozen.params)} == {np.dtype("float32")}
    train_step = training.jit_train_step(config, plan, mesh, frozen=frozen.modules)
    state = training.jit_init(config, plan, mesh, frozen.modules)(KEY)
    losses = []
    checkpoints = Checkpoints(workdir, keep=1)
    for step in range(12):
        state, metrics = train_step(state, batch, KEY, frozen.params)
        losses.append(float(metrics["class_loss"]))
        if step == 7:
            checkpoints.save(state)
    assert losses[-1] < 0.8 * losses[0]
    assert_equal(jax.device_get(frozen.params["teacher"]), teacher[1])
    # The product is the average of the student, and of its architecture.
    shapes = [jax.tree.map(np.shape, tree) for tree in (teacher_params(state), state.params)]
    assert shapes[0] == shapes[1]

    checkpoints.wait()
    parts = {path.name for path in (workdir / "checkpoints/8").iterdir() if path.is_dir()}
    assert parts - {"metrics"} == {"student", "teacher", "centers", "optimizer"}
    assert [path.name for path in (workdir / "frozen").glob("*.npz")] == ["teacher.npz"]

    export.unlink()
    again = read(config, workdir, mesh, resumed=True)
    assert_equal(jax.device_get(again.params), jax.device_get(frozen.params))
    resumed = checkpoints.restore(training.state_layout(config, plan, mesh, again.modules))
    for _ in range(4):
        resumed, _ = train_step(resumed, batch, KEY, again.params)
    assert_equal(jax.device_get(resumed.params), jax.device_get(state.params))
    checkpoints.close()


def test_the_targets_are_the_frozen_networks(export, tmp_path):
    """The moving average may be anything."""
    config, mesh = config_of(export), make_mesh(jax.devices()[:1])
    plan, batch = tiny_plan(config), tiny_batch(config)
    frozen = read(config, epath.Path(tmp_path), mesh)
    step = jax.jit(training.make_train_step(config, plan, mesh, frozen=frozen.modules))
    state = training.make_init(config, plan, frozen.modules)(KEY)
    other = state.replace(opt_state=jax.tree.map(lambda x: x * 0, state.opt_state))
    losses = [step(s, batch, KEY, frozen.params)[1]["loss"] for s in (state, other)]
    assert losses[0] == losses[1]
    zero = jax.tree.map(lambda x: x * 0, frozen.params)
    zero["teacher"]["head"]["last_layer"] = frozen.params["teacher"]["head"]["last_layer"]
    assert step(state, batch, KEY, zero)[1]["loss"] != losses[0]


def balanced(logits, temp):
    """Sinkhorn and Knopp's targets of rows, in three turns."""
    q = np.exp(np.asarray(logits, np.float64) / temp)
    for _ in range(3):
        q /= q.sum(0) * q.shape[1]
        q /= q.sum(1, keepdims=True) * len(q)
    return q * len(q)


def test_whole_views_are_distilled_by_balanced_targets_of_all_tokens(export, tmp_path):
    """As DINOv2 distils: nothing is masked, and each patch token has a target."""
    config, mesh = (
        config_of(
            export,
            masks__ratios=(0.0,),
            masks__variances=(0.0,),
            loss__targets="sinkhorn",
            loss__visible_weight=1.0,
            loss__koleo_weight=0.1,
            optim__lr=1e-6,
            data__local_views=0,
        ),
        make_mesh(jax.devices()[:1]),
    )
    batch = tiny_batch(config) | {"masks": np.zeros((8, 2, 4, 4), bool)}
    frozen = read(config, epath.Path(tmp_path), mesh)
    plan = tiny_plan(config)
    state = training.make_init(config, plan, frozen.modules)(KEY)
    assert state.buffers == {}
    step = jax.jit(training.make_train_step(config, plan, mesh, frozen=frozen.modules))
    _, metrics = step(state, batch, KEY, frozen.params)

    views = normalized(config, batch["global_views"]).reshape(16, 16, 16, 3)
    method = training.make_method(config, plan, frozen=frozen.modules)

    def logits(network, params):
        tokens = network.backbone.apply({"params": params["backbone"]}, views)
        of_class, of_patches = (
            network.head.apply({"params": params["head"]}, rows)[kind]
            for kind, rows in enumerate(
                (tokens.cls, tokens.patches.reshape(-1, tokens.cls.shape[1]))
            )
        )
        return of_class, of_patches

    theirs = logits(frozen.modules["teacher"], frozen.params["teacher"])
    ours = [
        scipy.special.log_softmax(np.asarray(x, np.float64) / config.loss.student_temp, axis=-1)
        for x in logits(method.modules.student, state.params)
    ]
    temps = metrics["teacher_temp"], metrics["teacher_patch_temp"]
    of_class, of_patches = (balanced(x, temp) for x, temp in zip(theirs, temps, strict=True))
    crossed = ours[0].reshape(8, 2, -1)[:, ::-1].reshape(16, -1)
    np.testing.assert_allclose(metrics["class_loss"], -(of_class * crossed).sum(1).mean(), 1e-4)
    np.testing.assert_allclose(metrics["patch_loss"], -(of_patches * ours[1]).sum(1).mean(), 1e-4)
    assert metrics["koleo_loss"] != 0 and metrics["mask_ratio"] == 0


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (dict(frozen__teacher=""), 'method="distillation" needs a teacher'),
        (dict(head__prototypes=20, head__patch_prototypes=20), r"head.prototypes=20 .* use 12"),
        (dict(model__patch_size=8), "has 2 x 2 patches, and for frozen.teacher 4 x 4"),
    ],
    ids=str,
)
def test_networks_that_cannot_be_compared_are_refused(overrides, problem, export, tmp_path):
    config = config_of(export, **overrides)
    mesh = make_mesh(jax.devices()[:1])
    frozen = read(config, epath.Path(tmp_path), mesh)
    with pytest.raises(UserError, match=problem):
        training.make_init(config, tiny_plan(config), frozen.modules)


@pytest.fixture
def doubled(teacher, tmp_path):
    """Returns another network and its export."""
    path, params = epath.Path(tmp_path / "doubled.npz"), jax.tree.map(lambda x: 2 * x, teacher[1])
    write_npz(path, params, teacher[0], "")
    return path, params


def test_another_path_is_read_anew(export, doubled, tmp_path):
    workdir, mesh = epath.Path(tmp_path / "run"), make_mesh(jax.devices()[:1])
    read(config_of(export), workdir, mesh)
    frozen = read(config_of(doubled[0]), workdir, mesh, resumed=True)
    assert_equal(jax.device_get(frozen.params["teacher"]), doubled[1])


def test_the_copy_of_a_start_that_failed_is_not_believed(export, doubled, tmp_path):
    """By the next start the path may hold something better."""
    workdir, mesh = epath.Path(tmp_path / "run"), make_mesh(jax.devices()[:1])
    read(config_of(export), workdir, mesh)
    doubled[0].replace(export)
    frozen = read(config_of(export), workdir, mesh, resumed=False)
    assert_equal(jax.device_get(frozen.params["teacher"]), doubled[1])


def test_all_processes_read_what_the_first_one_found(
    teacher, export, doubled, tmp_path, monkeypatch
):
    """A live run's latest checkpoint is another one for whoever comes later."""
    workdir, mesh = epath.Path(tmp_path / "run"), make_mesh(jax.devices()[:1])
    read(config_of(export), workdir, mesh)
    doubled[0].replace(export)
    monkeypatch.setattr(frozen_networks, "is_first", lambda: False)
    frozen = read(config_of(export), workdir, mesh)
    assert_equal(jax.device_get(frozen.params["teacher"]), teacher[1])


def test_another_projects_file_teaches(tmp_path):
    """Its backbone and its head, by the names of DINO."""
    tensors = prefixed("teacher.backbone.", vit()) | prefixed("teacher.head.", projection_head())
    np.savez(tmp_path / "x.npz", **tensors)
    config, mesh = config_of(tmp_path / "x.npz"), make_mesh(jax.devices()[:1])
    with pytest.raises(UserError, match="^frozen.teacher='.*x.npz' does not tell how"):
        read(config, epath.Path(tmp_path / "run"), mesh)
    assert convert(tmp_path / "x.npz", tmp_path / "y.pth", "--to=pth", "--head", "--heads=4")
    config = config_of(tmp_path / "y.pth")
    (tmp_path / "x.npz").unlink()
    params = read(config, epath.Path(tmp_path / "run"), mesh).params["teacher"]
    kernel = params["backbone"]["blocks_1"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(kernel.T, vit()["blocks.1.mlp.fc1.weight"])
    kernel = params["head"]["last_layer"]["v"]
    np.testing.assert_array_equal(kernel.T, projection_head()["last_layer.weight_v"])


def heads_first(vit):
    return prefixed("backbone.", vit) | prefixed("head.", projection_head())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (vit(), "holds no projection head as this project has them, and one is needed; give"),
        (heads_first(vit()), "does not tell .*; say so by ibot_jax.convert --heads=N$"),
        (
            heads_first(vit() | {"fc.weight": np.ones((3, 32), np.float32)}),
            r".* holds backbone.fc.weight .* named: ibot_jax.convert --allow='backbone.fc",
        ),
    ],
    ids=["head", "heads", "left over"],
)
def test_what_a_file_does_not_tell_is_told_to_convert(tensors, message, tmp_path):
    """No key of the run is about the model of the teacher, and a run has no such flags."""
    np.savez(tmp_path / "x.npz", **tensors)
    with pytest.raises(UserError, match=f"^frozen.teacher='.*x.npz' {message}") as error:
        read(config_of(tmp_path / "x.npz"), epath.Path(tmp_path / "run"), make_mesh())
    assert not re.findall(r"(?<!ibot_jax.convert )--[a-z]", str(error.value))
    assert not (tmp_path / "run").exists()


def test_a_classifier_is_no_teacher(tmp_path):
    """Its head is not what the student's outputs could be compared with."""
    config = tiny_config()
    classifier = {"classes": 5, "names": None, "projection": 0}
    model, params = untrained(Model(config, "tuned", classifier=classifier), head=True)
    path = epath.Path(tmp_path / "tuned.npz")
    write_npz(path, jax.device_get(params), model.description(head=True), "")
    with pytest.raises(UserError, match=r"frozen.teacher=.*tuned.npz' is fine-tuned .* the pre-"):
        read(config_of(path), epath.Path(tmp_path / "run"), make_mesh(jax.devices()[:1]))
    assert not (tmp_path / "run/frozen").exists()


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (dict(data__std=(0.5, 0.5, 0.5)), r"data.std=\(0.5.* frozen.teacher .* use \(0.2"),
        (
            dict(data__channels=1, data__mean=(0.5,), data__std=(0.5,)),
            r"data.channels=1 .*; use 3; data.mean=\(0.5,\) .*; data.std=",
        ),
    ],
    ids=["std", "channels"],
)
def test_a_network_of_other_pixels_is_refused(overrides, problem, export, tmp_path):
    """It sees the views that the student sees, normalised as the run says."""
    with pytest.raises(UserError, match=problem):
        read(config_of(export, **overrides), epath.Path(tmp_path), make_mesh(jax.devices()[:1]))


def test_the_runs_kernels_compute_it_too(export, tmp_path):
    config, mesh = config_of(export), make_mesh(jax.devices()[:1])
    modules = read(config, epath.Path(tmp_path), mesh).modules
    kernels = choose("auto", Device("gpu", "H100", capability=9.0))
    method = training.make_method(config, tiny_plan(config), kernels, modules)
    networks = method.modules.student, method.modules.teacher, method.modules.frozen["teacher"]
    assert [network.backbone.kernels for network in networks] == 3 * [kernels]
