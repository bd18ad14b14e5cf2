"""The notebook of docs/ runs as it stands."""

import pathlib

import pytest

NOTEBOOK = pathlib.Path(__file__).parent.parent / "docs/first_steps.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Returns the cells of code with what they put out, by a kernel in an empty folder."""
    reason = "pip install 'ibot-jax[notebook]'"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    for name in ("ipykernel", "ipywidgets"):
        pytest.importorskip(name, reason=reason)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "is kept without outputs"
    folder = tmp_path_factory.mktemp("notebook")
    resources = {"metadata": {"path": str(folder)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "")  # one device and quick programs: it trains for minutes
        nbclient.NotebookClient(notebook, timeout=900, resources=resources).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def cell_with(cells, text):
    (found,) = (cell for cell in cells if text in cell.source)
    return found


@pytest.mark.slow
def test_it_trains_beneath_a_widget(executed):
    """A bar of text would be on stderr."""
    outputs = cell_with(executed, "ibot_jax.pretrain(").outputs
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert "application/vnd.jupyter.widget-view+json" in kinds
    assert not [output for output in outputs if output.get("name") == "stderr"]


@pytest.mark.slow
def test_it_learns(executed):
    """It was 71.3 % at initialisation (README.md)."""
    found = eval(cell_with(executed, "run.best()").outputs[0]["data"]["text/plain"])
    assert found["knn_top1"] > 76
    alike = printed(cell_with(executed, "show the same digit"))
    assert int(alike.partition("%")[0]) > 50  # chance is 10


@pytest.mark.slow
def test_it_shows_a_picture(executed):
    outputs = cell_with(executed, "np.vstack(rows)").outputs
    assert any("image/png" in output.get("data", {}) for output in outputs)
