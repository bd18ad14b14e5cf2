"""Model cards say what is known, and how to find it again."""

import ast
import hashlib
import json
import math
import re
import shlex
import textwrap

import numpy as np
import pytest
import yaml
from etils import epath
from tiny import tiny_config

from ibot_jax.cli import subcommands
from ibot_jax.config.flat import flatten
from ibot_jax.errors import UserError
from ibot_jax.evaluate.__main__ import TASKS
from ibot_jax.kernels.gelu import value_and_slope
from ibot_jax.weights.card import make_card, read_report, require_same_weights
from ibot_jax.weights.description import describe
from ibot_jax.weights.export import own_card
from ibot_jax.weights.hashes import weights_hash

TENSORS = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 1))}


def card(**known):
    options = {key: known.pop(key) for key in ("license_id", "reports", "source") if key in known}
    description = describe(flatten(tiny_config()), head=False) | known
    kwargs = dict(title="mine", reading="tensors = ...", usage="model = ...")
    return make_card(description, TENSORS, **kwargs, **options)


def test_the_hash_is_of_names_dtypes_shapes_and_bytes():
    content = b"a float64 (2, 1)\n" + np.ones(2, "<f8").tobytes()
    content += b"b float32 (3,)\n" + np.arange(3, dtype="<f4").tobytes()
    assert weights_hash(TENSORS) == hashlib.sha256(content).hexdigest()
    assert weights_hash(dict(reversed(TENSORS.items()))) == weights_hash(TENSORS)
    assert weights_hash(TENSORS | {"a": np.ones((1, 2))}) != weights_hash(TENSORS)
    assert weights_hash(TENSORS) in card()


def test_what_is_not_known_is_not_made_up():
    text = card()
    assert "Data and schedule are not recorded" in text
    assert "None are recorded." in text
    assert "Not stated by whoever wrote these files" in text
    assert "license:" not in text


def test_schedule_metrics_and_licence(tmp_path):
    run = flatten(tiny_config(data__source="folder:cats", optim__lr=0.125))
    report = {"task": "linear", "settings": {"data": "folder:cats"}, "metrics": {"top1": 71.25}}
    (tmp_path / "linear.json").write_text(json.dumps(report))
    reports = [read_report(epath.Path(tmp_path / "linear.json"))]
    text = card(run=run, step=1234, knn_top1=61.5, license_id="CC-BY-4.0", reports=reports)
    assert "license: cc-by-4.0\n" in text
    assert "| `optim.lr` | 0.125 |" in text
    assert "high_res" not in text
    late = {"high_res.last": "8%", "high_res.global_sides": [512, 768]}
    for row in ("| `high_res.last` | 8% |", "| `high_res.global_sides` | [512, 768] |"):
        assert row in card(run=run | late)
    assert "after 1,234 steps" in text
    assert "- k-NN top-1 61.50 %, found during training at step 1,234; again by `" in text
    assert "- linear: top1 71.25, by `python -m ibot_jax.evaluate linear`" in text


def test_the_command_of_knn_has_all_that_made_its_number():
    """What the config says, in the flags of `evaluate knn`, as its parser reads them."""
    run = tiny_config(
        data__source="folder:my cats",
        data__global_size=(16, 32),
        dtype="bfloat16",
        **{
            f"knn__{key}": value
            for key, value in dict(
                train_split="a",
                test_split="b",
                max_train_per_class=2,
                max_test_per_class=1,
                resize=36,
                k=3,
                temperature=0.2,
            ).items()
        },
    )
    text = card(run=flatten(run), step=5, knn_top1=61.5, source="mine.npz")
    args = read_command(re.search(r"again by `(.*)`", text).group(1))
    assert (
        vars(args).items()
        >= dict(
            source="mine.npz",
            data="folder:my cats",
            train_split="a",
            test_split="b",
            max_train_per_class=2,
            max_test_per_class=1,
            size=[16, 32],
            resize=36,
            k=(3,),
            temperature=(0.2,),
            features="cls",
            blocks=1,
            dtype="bfloat16",
            weights="teacher",
        ).items()
    )
    assert "--from=PATH" in card(run=flatten(run), knn_top1=1.0)
    assert "PATH stands for these weights" in card(run=flatten(run), knn_top1=1.0)


def read_command(text):
    program, option, module, *words = shlex.split(text)
    assert (program, option, module) == ("python", "-m", "ibot_jax.evaluate")
    return subcommands.parse(words, module, TASKS, noun="task", doc="")[2]


def report(tmp_path, sha256):
    content = {"task": "knn", "metrics": {"top1": 71.25}, "settings": {"sha256": sha256}}
    content["command"] = "python -m ibot_jax.evaluate knn --from=/else/where --step=7 --data=digits"
    (tmp_path / "knn.json").write_text(json.dumps(content))
    return read_report(epath.Path(tmp_path / "knn.json"))


def test_images_that_were_trained_on_are_told():
    warned = "(beware: 1,200 of the test images are training images, too)"
    assert f"during training at step 5 {warned}" in card(
        step=5, knn_top1=1.0, knn_shared_images=1200
    )
    found = {"task": "linear", "metrics": {"top1": 99.0, "shared_images": 1200}, "command": "x"}
    assert f"by `x` {warned}" in card(reports=[found | {"settings": {}}])
    assert "beware" not in card(step=5, knn_top1=1.0)


def test_a_report_is_of_the_weights_of_the_card(tmp_path):
    """Its command then is that of the card's files; of other weights it is refused."""
    params = {"backbone": {"norm": {"scale": np.ones(3, np.float32)}}}
    content = b"backbone.norm.scale float32 (3,)\n" + np.ones(3, "<f4").tobytes()
    own = report(tmp_path, hashlib.sha256(content).hexdigest())
    require_same_weights([own], {**params, "head": {"x": np.zeros(2)}})
    command = "`python -m ibot_jax.evaluate knn --from=mine.npz --data=digits`"
    assert f"- knn: top1 71.25, by {command}" in card(reports=[own], source="mine.npz")
    with pytest.raises(UserError, match=r"--report=\S+knn.json is of other weights"):
        require_same_weights([report(tmp_path, "0" * 64)], params)


def test_another_file_is_no_report(tmp_path):
    for content in ("[]", "{}", "no JSON"):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(UserError, match="is no report; give a TASK.json"):
            read_report(epath.Path(tmp_path / "x.json"))


ODD_WORDS = [
    "other: ask us",
    "mine # not yours",
    "no",
    "null",
    "on",
    "~",
    "1.0",
    "1e3",
    "0x1f",
    "2020-01-01",
    "[a, b]",
    "{a: b}",
    "- a",
    "&a *b !c |",
    'it\'s "so"',
    "a\nlicense: b",
    "---",
    "tab\there",
    " spaces ",
    "%x",
    "`code`",
    "C:\\files",
    "Lizenz für alle, 許可 🙂",
    "\x7f\x85\u2028\ufeff",
]


@pytest.mark.parametrize("words", ODD_WORDS, ids=ascii)
def test_any_licence_reads_back_from_the_header(words):
    header = card(license_id=words).removeprefix("---\n").partition("\n---\n")[0]
    assert yaml.safe_load(header)["license"] == words


@pytest.mark.parametrize("name", ["CC-BY-4.0", "Apache-2.0", "MIT", "GPL-3.0+", "0BSD"])
def test_identifiers_are_written_as_hubs_list_them(name):
    header = card(license_id=name).split("---\n")[1]
    assert yaml.safe_load(header)["license"] == name.lower()


@pytest.mark.parametrize(
    ("dtype", "words"), [("bfloat16", "by a tanh"), ("float32", "exact (erf)")]
)
def test_gelu_and_precision_are_those_of_the_run(dtype, words):
    text = card(run=flatten(tiny_config(dtype=dtype)), dtype="float32", step=7)
    assert f"| GELU | {words}" in text and f"| `dtype` | {dtype} |" in text
    assert "after 7 steps" in text


def test_the_tanh_is_as_near_as_the_card_says():
    x = np.linspace(-8, 8, 20_001, dtype=np.float32)
    exact = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()])
    far = np.abs(np.asarray(value_and_slope(x)[0], np.float64) - exact).max()
    assert 1e-5 < far < 2.65e-5 and "within 2.6e-5" in card(dtype="bfloat16")


def test_names_are_quoted_in_code(tmp_path):
    odd = 'we"ird \\n {name}.npz'
    description = describe(flatten(tiny_config()), head=False)
    text = own_card(odd, "npz", {"backbone": {"x": np.zeros(2)}}, description, "", [])
    blocks = re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    calls = [
        node.args[0].value
        for block in blocks
        if "import" in block
        for node in ast.walk(ast.parse(textwrap.dedent(block)))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load"
    ]
    assert calls == [odd, odd]  # ibot_jax.load and np.load
