"""What a run on a mixture tells of each source."""

import jax
import numpy as np

from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.runs.mixture import told_by_source


def test_metrics_tell_of_each_source():
    """By counts, over all devices; the step sees the rest of the batch."""
    mesh = make_mesh(fsdp=2)
    batch = {
        "source": np.array([0, 2, 2, 0, 2, 0, 2, 2], np.int32),
        "replaced": np.array([0, 1, 0, 0, 1, 1, 0, 0], bool),
        "masks": np.zeros((8, 1), bool),
    }

    def step(state, batch, key):
        assert list(batch) == ["masks"]
        return state + 1, {"loss": key}

    state, metrics = told_by_source(step, 3, mesh)(0, to_global(batch, mesh), 0.5)
    expected = {
        "loss": 0.5,
        **{"source_1_images": 3, "source_1_bad_share": 1 / 3},
        **{"source_2_images": 0, "source_2_bad_share": 0},
        **{"source_3_images": 5, "source_3_bad_share": 2 / 5},
    }
    assert state == 1 and metrics.keys() == expected.keys()
    jax.tree.map(np.testing.assert_allclose, metrics, expected)
