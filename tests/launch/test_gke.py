"""gke.sh: its manifests are what Kubernetes and JobSet take, for slices of all shapes."""

import jsonschema
import pytest
import yaml
from jobset_schema import JOBSET
from scripts import assert_misuse, calls, run_script, stand_in

NAME = ("run1", "--image=us-docker.pkg.dev/project/repository/ibot:1")
SLICE = ("--accelerator=tpu-v5-lite-podslice", "--topology=4x4")
FLAGS = ("--config=configs/vitb16.py", "--workdir=gs://bucket/run", "--config.duration=4 epochs")


def manifest(*options, flags=FLAGS):
    result = run_script("gke.sh", "--dry-run", *NAME, *options, "--", *flags)
    assert result.returncode == 0, result
    document = yaml.safe_load(result.stdout)
    jsonschema.validate(document, JOBSET)
    return document


def parts(document):
    """Returns the replicated job, the job, the pod and the container of a manifest."""
    replicated = document["spec"]["replicatedJobs"][0]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    return replicated, job, pod, pod["containers"][0]


@pytest.mark.parametrize(
    ("accelerator", "topology", "options", "hosts", "chips"),
    [
        ("tpu-v5-lite-podslice", "4x4", [], 4, 4),
        ("tpu-v5-lite-podslice", "2x4", ["--chips-per-host=8"], 1, 8),
        ("tpu-v6e-slice", "1x1", [], 1, 1),
        ("tpu-v5p-slice", "2x2x4", [], 4, 4),
    ],
)
def test_a_slice_has_a_pod_for_each_host(accelerator, topology, options, hosts, chips):
    slice_options = (f"--accelerator={accelerator}", f"--topology={topology}")
    _, job, pod, container = parts(manifest(*slice_options, *options))
    assert job["parallelism"] == job["completions"] == hosts
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    assert container["resources"]["requests"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }


def test_slices_are_replicas_each_in_a_node_pool_of_its_own():
    document = manifest(*SLICE, "--slices=3")
    assert parts(document)[0]["replicas"] == 3
    key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert document["metadata"]["annotations"][key] == "cloud.google.com/gke-nodepool"


def test_one_lost_pod_restarts_them_all_so_many_times():
    document = manifest(*SLICE, "--restarts=7")
    _, job, pod, _ = parts(document)
    assert document["spec"]["failurePolicy"] == {"maxRestarts": 7}
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"


def test_spot_nodes_are_selected_and_tolerated():
    _, _, pod, _ = parts(manifest(*SLICE, "--spot"))
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["tolerations"][0]["key"] == "cloud.google.com/gke-spot"
    assert "tolerations" not in parts(manifest(*SLICE))[2]


def test_program_flags_reach_the_container_as_they_were_given():
    flags = (*FLAGS, "--x=it's: #1")
    container = parts(manifest(*SLICE, flags=flags))[3]
    assert container["args"] == list(flags)
    assert container["command"][-2].endswith('exec python -m ibot_jax.main "$@"')


@pytest.mark.parametrize(
    "text",
    ["a\nb", "\r\n", "tab\t", 'quo"te', "back\\slash\\n", "é\u2028\u2029\u0085", "# : - {", " x "],
)
def test_program_flags_keep_every_character(text):
    assert parts(manifest(*SLICE, flags=(*FLAGS, text)))[3]["args"][-1] == text


@pytest.mark.parametrize("word", ["on", "null", "true", "yes", "n"])
def test_names_that_yaml_takes_for_other_things_stay_text(word):
    options = ("--image=r/i:1", "--accelerator=1e3", "--topology=2x2", f"--service-account={word}")
    result = run_script("gke.sh", "--dry-run", word, *options, "--", *FLAGS)
    document = yaml.safe_load(result.stdout)
    jsonschema.validate(document, JOBSET)
    pod = parts(document)[2]
    assert document["metadata"]["name"] == pod["serviceAccountName"] == word
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "1e3"


def test_without_dry_run_kubectl_gets_the_manifest(tmp_path):
    stand_in(tmp_path, "kubectl", f"cat >{tmp_path}/applied")
    result = run_script("gke.sh", *NAME, *SLICE, "--", *FLAGS, bin_dir=tmp_path)
    assert result.returncode == 0 and calls(tmp_path) == ["kubectl apply -f -"]
    assert yaml.safe_load((tmp_path / "applied").read_text()) == manifest(*SLICE)


def test_the_schema_finds_typing_errors():
    document = manifest(*SLICE)
    parts(document)[1]["backOffLimit"] = 0
    with pytest.raises(jsonschema.ValidationError, match="backOffLimit"):
        jsonschema.validate(document, JOBSET)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name is missing"]),
        (["Run_1"], ["Run_1"]),
        (["run1"], ["--image"]),
        ([*NAME], ["--accelerator"]),
        ([*NAME, "--accelerator=a"], ["--topology"]),
        ([*NAME, "--accelerator=a", "--topology=16"], ["--topology=16"]),
        ([*NAME, *SLICE, "--chips-per-host=3"], ["--chips-per-host=3", "16 chips"]),
        ([*NAME, *SLICE, "--slices=0"], ["--slices=0"]),
        ([*NAME, *SLICE, f"--restarts={'9' * 24}"], ["--restarts=9", "999999999"]),
        ([*NAME, SLICE[0], "--topology=9999x9999"], ["--topology=9999x9999"]),
        (["run1", "--image=r/i:1'\n  tty: true", *SLICE], ["--image=r/i:1'   tty"]),
        (["run1", '--image=r/i"', *SLICE], ['--image=r/i"']),
        ([*NAME, "--accelerator=x\n hostNetwork: true", SLICE[1]], ["--accelerator=x  host"]),
        ([*NAME, *SLICE, "--service-account=d\n  hostPID: true"], ["--service-account=d   host"]),
        ([*NAME, *SLICE, "--", *FLAGS, "--x=$(HOME)"], ["--x=$(HOME)", "Kubernetes"]),
        ([*NAME, *SLICE, "--", *FLAGS, "--x=a$$b"], ["--x=a$$b", "Kubernetes"]),
        ([*NAME, *SLICE, "--", *FLAGS, "--x=\x1b"], ["control character"]),
        ([*NAME, *SLICE, "--", "--config=", "--workdir=gs://x"], ["--config="]),
        ([*NAME, *SLICE], ["--config="]),
        ([*NAME, *SLICE, "--", "--config=c.py", "--workdir=/tmp/x"], ["gs://"]),
    ],
)
def test_a_mistake_is_one_line(arguments, words):
    assert_misuse(run_script("gke.sh", "--dry-run", *arguments), *words)
