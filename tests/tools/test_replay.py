"""Replaying recordings: what was recorded is found again, what is wrong is told, and where."""

import json

import numpy as np
import pytest

from ibot_jax.tools import replay


@pytest.fixture
def changed(step_small, tmp_path):
    """Returns a function that writes a copy of a recording with arrays and settings changed.

    Arrays by name, to a function or to None, which takes all out whose names begin so.
    """

    def write(arrays=None, path=step_small, without=(), **settings):
        kept = dict(np.load(path))
        if "config" in kept:
            config = json.loads(str(kept["config"])) | settings
            config = {name: value for name, value in config.items() if name not in without}
            kept["config"] = np.array(json.dumps(config))
        for name, change in (arrays or {}).items():
            if change is None:
                kept = {other: array for other, array in kept.items() if not other.startswith(name)}
            else:
                kept[name] = change(kept.get(name))
        target = tmp_path / "changed.npz"
        np.savez(target, **kept)
        return str(target)

    return write


@pytest.fixture
def table(capsys):
    """Returns a function from arguments to the exit status, and the table: verdict and place."""

    def run(*arguments):
        status = replay.main([str(argument) for argument in arguments])
        lines = [line[2:] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
        width = lines[0].index("deviation") - 2
        rows = {line[:width].strip(): line[width:].split(maxsplit=3)[2:] for line in lines[1:]}
        return status, {quantity: (*row, "")[:2] for quantity, row in rows.items()}

    return run


@pytest.fixture
def refused(capsys):
    """Returns a function from a file to the one line that says why it is not replayed."""

    def run(path):
        assert replay.main([str(path)]) == 2
        printed, err = capsys.readouterr()
        assert printed == "" and err.count("\n") == 1
        assert err.startswith(f"error: {path}: ")
        return err.removeprefix(f"error: {path}: ").strip()

    return run


def above(rows):
    return {quantity for quantity, (verdict, _) in rows.items() if verdict != "ok"}


def test_the_small_run_is_reproduced(step_small, table):
    status, rows = table(step_small)
    assert status == 0 and not above(rows)
    moments = {
        f"{when} {what}"
        for when in ("epoch1", "final")
        for what in ("student", "teacher", "class center", "patch center")
    }
    losses = {"total loss", "class loss", "patch loss"}
    schedules = {"lr", "wd", "momentum", "teacher_temp", "teacher_patch_temp"}
    assert set(rows) == moments | losses | schedules


@pytest.mark.slow
def test_the_small_run_of_a_swin_is_reproduced(swin_step_small, table):
    status, rows = table(swin_step_small)
    assert status == 0 and not above(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "step_shared_head",
        "step_separate_head_free_norm",
        "step_no_local_crops",
        "swin_step_no_local",
        "swin_step_multicrop",
        "swin_window7",
        "swin_window14",
        "swin_features",
        "vit_forward",
        "knn",
        "view_ops",
    ],
)
def test_every_recording_of_the_original_is_reproduced(reference, table, name):
    status, rows = table(reference(f"{name}.npz"))
    assert status == 0 and rows and not above(rows)


def more(share):
    return lambda array: array + share * np.abs(array).max()


def one_more(array):
    array = array.copy()
    array.flat[3] += 1e-7 * np.abs(array).max()
    return array


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "quantity", "place"),
    [
        (
            "epoch1/student/backbone.blocks.1.mlp.fc2.weight",
            one_more,
            "epoch1 student",
            "backbone.blocks.1.mlp.fc2.weight",
        ),
        ("final/teacher/head.mlp.4.bias", one_more, "final teacher", "head.mlp.4.bias"),
        (
            "final/student/backbone.norm.weight",
            lambda array: np.where(np.arange(array.size) == 2, np.nan, array),
            "final student",
            "backbone.norm.weight",
        ),
        (
            "final/student/backbone.norm.bias",
            lambda array: array[:-1],
            "final student",
            "backbone.norm.bias",
        ),
        ("final/patch_center", more(1e-7), "final patch center", ""),
        ("lr", more(1e-7), "lr", ""),
        ("teacher_temp", more(1e-7), "teacher_temp", ""),
    ],
)
def test_one_wrong_number_is_found_where_it_is(changed, table, name, change, quantity, place):
    status, rows = table(changed({name: change}))
    assert status == 1 and above(rows) == {quantity}
    assert rows[quantity] == ("ABOVE", place)


@pytest.mark.slow
def test_a_wrong_loss_is_found_at_its_step_and_passes_a_larger_tolerance(changed, table):
    def change(losses):
        losses = losses.copy()
        losses[4, 2] *= 1 + 3e-9
        return losses

    path = changed({"loss": change})
    status, rows = table(path)
    assert status == 1 and above(rows) == {"patch loss"}
    assert rows["patch loss"] == ("ABOVE", "step 4")
    assert table(path, "--tolerance=1e-8")[0] == 0
    assert table(path, "--tolerance=0")[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"clip_grad": 0.0},
        {"momentum_teacher": 0.91, "freeze_last_layer": 0},
        {"lambda1": 0.9},
        {"student_temp": 0.11},
        {"center_momentum": 0.8},
        {"pred_start_epoch": 1},
    ],
)
def test_every_setting_counts(changed, settings):
    assert replay.main([changed(**settings)]) == 1


def test_what_is_not_known_is_told_and_what_is_optional_may_lack(changed, table, capsys):
    optional = {"epoch1/": None, "lr": None, "momentum": None, "teacher_patch_temp": None}
    path = changed(optional, sparkle=7, nlayers=3, drop_path=0.0, norm_in_head=None)
    assert replay.main([path]) == 0
    (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert note.startswith("note: sparkle=7 is not known here")


@pytest.mark.parametrize(
    ("arrays", "settings", "reason"),
    [
        ({"final/": None}, {}, "it has no final/"),
        ({"final/student/backbone.norm.bias": None}, {}, "no final/student/backbone.norm.bias"),
        ({"final/center": None}, {}, "it has no final/center"),
        ({"in/003/mask": None}, {}, "it has no in/003/mask"),
        ({"in/002/global": lambda x: x[:, :1]}, {}, "in/002/global is [2, 1, 3, 16, 16], not"),
        ({"loss": lambda x: x[:, :2]}, {}, "its loss is [6, 2], not [steps, 3]"),
        (
            {"init/student/head.mlp.1.weight": lambda _: np.ones(24)},
            {},
            "head.mlp.1.weight is of a head with a norm",
        ),
        (
            {f"{when}/student/backbone.fc.bias": lambda _: np.ones(2) for when in ("init", "final")}
            | {"epoch1/": None},
            {},
            "which no model here has",
        ),
        ({"config": lambda _: np.array("{")}, {}, "its config is no JSON"),
        ({"config": lambda _: np.array("[]")}, {}, "its config is no JSON object"),
        ({}, {"norm_in_head": "bn"}, "norm_in_head='bn' is not there yet"),
        ({}, {"drop_path": 0.1}, "drop_path=0.1 is not there yet"),
        ({}, {"nlayers": 4}, "nlayers=4 is not there yet"),
        ({}, {"qkv_bias": False}, "qkv_bias=False is not there yet"),
        ({}, {"center_momentum": 0.9, "center_momentum2": 0.8}, "two momenta"),
        ({}, {"recipe": "dinov2"}, "its config has no whole_config"),
        ({}, {"recipe": "vicreg"}, "the method vicreg is not there yet"),
        ({}, {"arch": "resnet50"}, "the architecture resnet50 is not there yet"),
        ({}, {"hidden_dim": 20}, "its init/student is not of the model"),
        ({}, {"hidden_dim": "many"}, "hidden_dim='many' is no value of head.hidden_dim"),
        ({}, {"num_heads": 3}, "model.heads=3 does not divide model.width=16"),
        ({}, {"image_size": "large"}, "image_size='large' is no size of an image"),
        ({}, {"optimizer": "muon"}, "optim.name='muon'"),
        ({}, {"epochs": 0}, "duration='0 epochs'"),
        ({}, {"steps_per_epoch": 0}, "steps_per_epoch=0 is no number of steps"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(changed, refused, arrays, settings, reason):
    assert reason in refused(changed(arrays, **settings))


@pytest.mark.parametrize("name", ["lr", "embed_dim", "local_size", "steps_per_epoch"])
def test_a_setting_that_is_needed_is_named(changed, refused, name):
    assert refused(changed(without=[name])) == f"its config has no {name}"


@pytest.mark.parametrize(
    ("arrays", "settings", "reason"),
    [
        ("koleo/plain/input", None, "it has no class/temps"),
        ("seghead/features/0", None, "dense evaluation of DINOv2 and DINOv3 are not there yet"),
        ("something", None, "no recording of a known kind"),
    ],
)
def test_other_recordings_are_one_line(tmp_path, refused, arrays, settings, reason):
    config = {} if settings is None else {"config": np.array(json.dumps(settings))}
    np.savez(tmp_path / "x.npz", **{arrays: np.zeros(2)}, **config)
    assert reason in refused(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [None, b"not an archive", b"", b"\x80\x04K\x01."])
def test_what_is_no_recording_is_one_line(tmp_path, refused, content):
    path = tmp_path / "broken.npz"
    if content is not None:
        path.write_bytes(content)
    assert refused(path).startswith("no recording: ")


def test_a_single_array_is_no_recording(tmp_path, refused):
    np.save(tmp_path / "x.npy", np.zeros(3))
    assert refused(tmp_path / "x.npy").startswith("no recording: ")


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_recording_is_one_line(step_small, tmp_path, refused, damage):
    content = bytearray(step_small.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 3] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    refused(tmp_path / "x.npz")


def test_the_status_is_that_of_the_worst_file(tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    np.savez(tmp_path / "right.npz", image=image, hflip=image[:, ::-1])
    np.savez(tmp_path / "wrong.npz", image=image, hflip=image)
    np.savez(tmp_path / "other.npz", image=image, hflip=image[:, ::-1], turned=image)
    right, wrong, other, absent = (
        str(tmp_path / f"{name}.npz") for name in ("right", "wrong", "other", "absent")
    )
    assert replay.main([right]) == replay.main([right, right]) == 0
    assert replay.main([right, absent]) == replay.main([other, right]) == 2
    assert replay.main([absent, wrong, right]) == 1
    assert "turned is no operation on an image" in capsys.readouterr().err


def test_neighbours_are_counted(tmp_path, table):
    """Four directions, of which each query's nearest are its own; the last query's is another's."""
    train = np.repeat(np.eye(4), 3, axis=0)
    arrays = {"train": train, "train_labels": np.repeat(np.arange(4), 3)}
    arrays |= {"test": np.eye(4), "test_labels": np.array([0, 1, 2, 0])}
    np.savez(tmp_path / "knn.npz", **arrays, k1=[75.0, 100.0], k3=[75.0, 100.0])
    assert table(tmp_path / "knn.npz")[0] == 0
    np.savez(tmp_path / "knn.npz", **arrays, k1=[75.0, 100.0], k3=[100.0, 100.0])
    status, rows = table(tmp_path / "knn.npz")
    assert status == 1 and above(rows) == {"top-1 and top-5, k = 3"}


@pytest.mark.parametrize("tolerance", ["nan", "-1", "inf", "x"])
def test_a_tolerance_is_a_number(step_small, capsys, tolerance):
    assert replay.main([str(step_small), f"--tolerance={tolerance}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--tolerance" in err


@pytest.mark.parametrize("file", ["dinov2_vit_small.npz", "dinov3_vit_small.npz"])
def test_vits_of_the_heirs_are_found_again(pytestconfig, table, file):
    status, rows = table(pytestconfig.rootpath / "tests/data" / file)
    assert status == 0 and len(rows) >= 3
    assert {verdict for verdict, _ in rows.values()} == {"ok"}


HEIRS = ("dinov2_vit_registers", "dinov2_vit_swiglu", "dinov3_vit", "dinov3_vit_swiglu_untied")


@pytest.mark.slow
@pytest.mark.parametrize("file", [*HEIRS, "other_layouts_dinov2", "other_layouts_dinov3"])
def test_so_are_all_recorded_outputs_and_layouts(reference, table, file):
    status, rows = table(reference(f"{file}.npz"))
    assert status == 0 and len(rows) >= 20


def test_losses_of_two_processes_are_found_again(pytestconfig, table):
    status, rows = table(pytestconfig.rootpath / "tests/data/two_processes.npz")
    assert status == 0 and not above(rows)
    assert {"rank0 class/sinkhorn_v2", "rank1 koleo/all_top2/grad"} < set(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "quantities"),
    [
        ("dino_losses", {"class v2_local_grad", "patch sinkhorn3", "paka all", "plusplus no_mask"}),
        ("recipe_tables", {"cosine/truncated", "v2/linear_cosine", "scaling/dinov2_sqrt_wrt_1024"}),
        ("stochastic_depth_and_rope", {"drop/rate=0.9,batch=3/dinov3/second_output", "rope/sin"}),
    ],
)
def test_parts_of_the_heirs_are_found_again(reference, table, file, quantities):
    status, rows = table(reference(f"{file}.npz"))
    assert status == 0 and not above(rows) and quantities < set(rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "separate_sinkhorn", "shared_centering"])
def test_runs_of_dinov2_are_reproduced(reference, table, name):
    status, rows = table(reference(f"dinov2_step_{name}.npz"))
    assert status == 0 and not above(rows)
    losses = {f"{kind} loss" for kind in ("total", "class", "patch", "koleo")}
    steps = {f"gradients of step {step}, clipped" for step in (0, 1)}
    moments = {f"{when} {who}" for when in ("epoch1", "final") for who in ("student", "teacher")}
    assert set(rows) > losses | steps | moments
    assert ("final patch center" in rows) == (name == "shared_centering")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["_small", "_gram", ""])
def test_runs_of_dinov3_are_reproduced(reference, table, name):
    status, rows = table(reference(f"dinov3_step{name}.npz"))
    assert status == 0 and not above(rows)
    moments = {f"{when} {who}" for when in ("epoch1", "final") for who in ("student", "teacher")}
    assert set(rows) > {"total loss", "koleo loss", "gradients of step 1, clipped"} | moments
    assert ("gram loss" in rows) == (name == "_gram")


@pytest.mark.slow
def test_settings_of_the_gram_loss_count(reference, changed, table):
    path = reference("dinov3_step_gram.npz")
    whole = json.loads(str(np.load(path)["config"]))["whole_config"]
    whole["gram"] |= {"loss_weight": 2.1, "global_teacher_resize_antialias": True}
    status, rows = table(changed(path=path, whole_config=whole))
    assert status == 1
    assert above(rows) > {"total loss", "epoch1 student", "final teacher"}
    # The weight is theirs, too: only what is compared tells.
    assert "gram loss" in above(rows) and not above(rows) & {"lr", "wd", "momentum"}


@pytest.mark.slow
def test_settings_of_dinov2_count(reference, changed, table):
    path = reference("dinov2_step_small.npz")
    whole = json.loads(str(np.load(path)["config"]))["whole_config"]
    whole["dino"]["koleo_loss_weight"] = 0.11
    whole["teacher"]["teacher_temp"] = 0.06
    whole["optim"] |= {"layerwise_decay": 0.8, "freeze_last_layer_epochs": 0}
    status, rows = table(changed(path=path, whole_config=whole))
    assert status == 1
    assert above(rows) > {"koleo loss", "teacher_temp", "epoch1 student", "final teacher"}
    assert not above(rows) & {"lr", "wd", "momentum"}


@pytest.mark.parametrize(
    ("section", "settings", "reason"),
    [
        ("train", {"centering": "whitening"}, "train.centering='whitening' is not there yet"),
        ("student", {"drop_path_rate": 0.3}, "student.drop_path_rate=0.3 is not there yet"),
        ("optim", {"scaling_rule": "cubic"}, "optim.scaling_rule='cubic' is not there yet"),
        ("optim", {"clip_grad": -1.0}, "its settings are of no run here: optim.clip=-1.0"),
    ],
)
def test_what_dinov2_does_and_nobody_here_is_one_line(
    reference, changed, refused, section, settings, reason
):
    path = reference("dinov2_step_small.npz")
    whole = json.loads(str(np.load(path)["config"]))["whole_config"]
    whole[section] |= settings
    assert reason in refused(changed(path=path, whole_config=whole))
