"""Model cards say what is known, and how to find it again."""

import hashlib
import json

import numpy as np
import pytest
from etils import epath
from tiny import tiny_config

from ibot_jax.card import make_card, read_report
from ibot_jax.config_check import flatten
from ibot_jax.errors import UserError
from ibot_jax.export import describe
from ibot_jax.tensors import weights_hash

TENSORS = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 1))}


def card(**known):
    options = {key: known.pop(key) for key in ("license_id", "reports") if key in known}
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
    assert "after 1,234 steps" in text
    assert "- k-NN top-1 61.50 %" in text and "--data=folder:cats --train-split=train" in text
    assert "- linear: top1 71.25, by `python -m ibot_jax.evaluate linear`" in text


def test_another_file_is_no_report(tmp_path):
    for content in ("[]", "{}", "no JSON"):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(UserError, match="is no report; give a TASK.json"):
            read_report(epath.Path(tmp_path / "x.json"))
