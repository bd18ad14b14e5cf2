"""Configs by path and by name, with overrides of their keys."""

import re

import pytest
from absl import flags

from ibot_jax.cli.config_file import parse_config, recipe_in_words
from ibot_jax.errors import UserError
from ibot_jax.runs.check import problems_at_hand


def parse(*arguments, **options):
    return parse_config(["command", *arguments], flags.FlagValues(), **options)


def test_a_config_is_found_from_any_folder_by_name_and_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in ("vitb16", "vitb16.py", "configs/vitb16", "configs/vitb16.py"):
        assert parse(f"--config={given}").model.width == 768
    assert parse("--config=vitb16:v5e-256").mesh.data == 256
    assert parse("--config", "finetune/vits16").optim.layer_decay == 0.75
    assert parse("--config=vits16", folder="finetune").optim.layer_decay == 0.75
    assert parse("--config=configs/finetune/vits16.py", folder="finetune").duration == "200 epochs"


def test_a_file_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    text = (
        "from ibot_jax.config import get_config as d\ndef get_config():\n  c = d()\n  c.seed = 7\n"
    )
    (tmp_path / "configs/vits16.py").write_text(text + "  return c\n")
    assert parse("--config=configs/vits16.py").seed == 7
    assert parse("--config=vits16").seed == 0


def test_a_wrong_name_lists_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        parse("--config=vith14")
    assert "--config=vith14: there is no file vith14" in str(error.value)
    for name in ("cifar10", "digits", "vits16", "vitb16", "vitl16", "finetune/few_labels"):
        assert re.search(rf" {name}\b", str(error.value))


@pytest.mark.parametrize("form", ["{}={}", "{} {}"])
def test_the_last_of_two_values_counts_also_of_tuples(form):
    texts = [
        "--config.data.global_size (8,8)",
        "--config.seed 1",
        "--config.data.global_size (9,6)",
    ]
    texts += ["--config digits", "--config.seed 2", "--config.masks.ratios (0.5,)"]
    arguments = []
    for text in texts:
        arguments += form.format(*text.split()).split()
    config = parse(*arguments)
    assert (config.data.global_size, config.seed, config.masks.ratios) == ((9, 6), 2, (0.5,))


def test_a_truth_value_needs_no_word():
    assert parse("--config=digits", "--config.model.scan_blocks", "--config.seed=3").seed == 3
    assert parse("--config=digits", "--config.model.scan_blocks").model.scan_blocks is True


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UserError) as error:
        parse(
            "--config=vits16",
            "--config.optim.lr=high",
            "--config.batch_size=1.5",
            "--config.learning_rate=1",
            "--config.optim={}",
            "--config.knn.k=0",
            "stray",
            "--config.duration=20 epochs",
            check=problems_at_hand,
        )
    text = str(error.value)
    for part in (
        "config.optim.lr=high has the wrong type; it takes a number",
        "config.batch_size=1.5 has the wrong type; it takes a whole number",
        "config.learning_rate is no key of the config; did you mean optim.lr?",
        "config.optim is a section; set its keys one by one",
        "knn.k=0 must be from 1 to",
        "'stray' is no flag; overrides are written --config.KEY=VALUE",
        "duration='20 epochs' is too short for loss.teacher_temp_warmup='30 epochs'; lengthen it, "
        'or set loss.teacher_temp_warmup="30%"',
    ):
        assert part in text
    assert "\n" not in text


def test_what_does_not_parse_hides_no_mistake_that_the_data_tells():
    with pytest.raises(UserError, match=r"^config\.lrr is no key .*; batch_size=9000 is larger"):
        parse(
            "--config=digits", "--config.lrr=1", "--config.batch_size=9000", check=problems_at_hand
        )


# What others call it, and ours.
NAMES = {
    "optim.learning_rate": "optim.lr",
    "base_lr": "optim.lr",
    "data.batch_size": "batch_size",
    "lr_schedule": "optim.schedule",
    "epochs": "duration",
    "train.epochs": "duration",
    "momentum": "teacher_momentum",
    "optim.momentum": "teacher_momentum",
    "n_prototypes": "head.prototypes",
    "out_dim": "head.prototypes",
    "img_size": "data.global_size",
    "data.num_workers": "data.workers",
    "model.embed_dim": "model.width",
    "optim.wd": "optim.weight_decay",
    "optim.learning_rat": "optim.lr",
    "warmup_epochs": "optim.warmup",
    "global_crops_scale": "data.global_scale",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_projects_lead_to_ours(name):
    with pytest.raises(UserError, match=rf"did you mean [\w., ]*\b{re.escape(NAMES[name])}\b"):
        parse("--config=digits", f"--config.{name}=1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "dinov2_vitl16, as it is"),
        (["--config.knn.k=5", "--config.mesh.data=8"], "dinov2_vitl16, as it is"),
        (
            ["--config.batch_size=256", "--config.data.source=folder:x"],
            "dinov2_vitl16; departs from it in batch_size=256 (there 2048), "
            "data.source='folder:x' (there 'tfds:imagenet2012')",
        ),
    ],
)
def test_a_run_names_its_recipe_and_in_what_it_departs_from_it(arguments, words):
    argv = ["", "--config=dinov2_vitl16", *arguments]
    assert recipe_in_words(argv, parse(*argv[1:])) == words
