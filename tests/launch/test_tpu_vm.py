"""tpu_vm.sh: what it would call, and how `all` brings a run to its end."""

import pytest
from scripts import assert_misuse, calls, run_script, stand_in

PROGRAM = ("--", "--config=configs/vitb16.py", "--workdir=gs://bucket/run")
ALL = ("all", "pod", "--zone=us-east5-b", "--type=v6e-64", "--spot", *PROGRAM)
# list prints the next line of the file states, or stays at the last one; the workers' answers
# come likewise from the file workers, where "down" is a worker that cannot be reached.
GCLOUD = """
next() {
  head -n 1 "$here/$1"
  if [ "$(wc -l <"$here/$1")" -gt 1 ]; then sed -i 1d "$here/$1"; fi
}
here=$(dirname "$0")
case "$*" in
  *" list "*) next states ;;
  *"worker.sh state"*)
    answer=$(next workers)
    tr , '\\n' <<<"$answer" | sed -n 's/^\\(new\\|running\\|lost\\|exit .\\+\\)$/state: \\1/p'
    [[ $answer != *down* ]]
    ;;
  *"train.log"*)
    grep -q -v '^down$' "$here/workers" && seq -f 'worker-0: line %g' 100
    ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
    """Returns a function that runs `all` where TPU and workers say these things in turn.

    It returns the exit status and the verbs of the calls that change something.
    """

    def run(states, workers, *options):
        bin_dir = tmp_path / "bin"
        stand_in(bin_dir, "gcloud", GCLOUD)
        stand_in(bin_dir, "git", "exit 0")
        (bin_dir / "states").write_text("".join(f"{line}\n" for line in states))
        (bin_dir / "workers").write_text("".join(f"{line}\n" for line in workers))
        arguments = (*ALL[:5], *options, *PROGRAM)
        environment = {"POLL_SECONDS": "0", "LOG_DIR": str(tmp_path / "logs")}
        result = run_script("tpu_vm.sh", *arguments, bin_dir=bin_dir, **environment)
        return result.returncode, [verb for verb in map(_verb, calls(bin_dir)) if verb]

    return run


def _verb(call):
    words = {
        "resources create": "create",
        "worker.sh install": "install",
        "worker.sh start": "run",
        "train.log": "log",
        "resources delete": "delete",
    }
    return next((verb for part, verb in words.items() if part in call), None)


def test_dry_run_prints_the_whole_course_and_runs_nothing(tmp_path):
    stand_in(tmp_path, "gcloud", "exit 1")
    stand_in(tmp_path, "git", "exit 1")
    result = run_script("tpu_vm.sh", "--dry-run", *ALL, bin_dir=tmp_path)
    assert result.returncode == 0 and calls(tmp_path) == []
    gcloud = "gcloud compute tpus queued-resources"
    everywhere = "--zone=us-east5-b --node=all --worker=all"
    assert result.stdout.splitlines() == [
        f"{gcloud} create pod --zone=us-east5-b --accelerator-type=v6e-64 "
        "--runtime-version=v2-alpha-tpuv6e --node-id=pod --spot",
        f"{gcloud} list --zone=us-east5-b '--filter=name~/pod$' '--format=value(state.state)'",
        "git archive --format=tar.gz --prefix=ibot_jax/ --output=ibot_jax.tar.gz HEAD",
        f"{gcloud} scp ibot_jax.tar.gz pod: {everywhere}",
        f"{gcloud} ssh pod {everywhere} '--command="
        "{ test ! -e ibot_jax/launch/worker.sh || ibot_jax/launch/worker.sh stop; } && "
        "rm -rf ibot_jax && tar -xzf ibot_jax.tar.gz && ibot_jax/launch/worker.sh install'",
        f"{gcloud} ssh pod {everywhere} '--command=ibot_jax/launch/worker.sh start "
        "--config=configs/vitb16.py --workdir=gs://bucket/run'",
        f"{gcloud} ssh pod {everywhere} '--command=ibot_jax/launch/worker.sh state'",
        f"{gcloud} ssh pod {everywhere} '--command=sed \"s/^/$HOSTNAME: /\" train.log'",
        f"{gcloud} delete pod --zone=us-east5-b --force --quiet",
    ]


def test_several_slices_are_several_nodes_of_one_request():
    options = ("--zone=z", "--type=v5litepod-16", "--slices=2")
    result = run_script("tpu_vm.sh", "--dry-run", "create", "pod", *options)
    assert "--node-count=2 --node-prefix=pod\n" in result.stdout
    assert "v2-alpha-tpuv5-lite" in result.stdout and "--spot" not in result.stdout


def test_program_flags_reach_the_workers_as_they_were_given():
    flags = ("--config=a.py", "--workdir=gs://b/r", "--config.duration=4 epochs", "--x=it's")
    result = run_script("tpu_vm.sh", "--dry-run", "run", "pod", "--zone=z", "--", *flags)
    # Quoted twice: for the shell there, and for the one that reads this line.
    there = "'--config.duration=4 epochs' '--x=it'\\''s'".replace("'", "'\\''")
    assert there in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["command is missing"]),
        (["fly", "pod", "--zone=z"], ["fly is no command"]),
        (["create"], ["name is missing"]),
        (["create", "Pod_1", "--zone=z"], ["Pod_1"]),
        (["create", "pod", "--type=v6e-8"], ["--zone"]),
        (["create", "pod", "--zone=z"], ["--type"]),
        (["create", "pod", "--zone=z", "--type=v6e-8", "--slices=none"], ["--slices=none"]),
        (["create", "pod", "--zone=z\n--project=x", "--type=v6e-8"], ["--zone=z --project=x"]),
        (["create", "pod", "--zone=z", "--type=v6e-8 --x"], ["--type=v6e-8 --x"]),
        (["create", "pod", "--zone=z", "--type=v6e-8", "--runtime-version=$(x)"], ["$(x)"]),
        (["create", "pod", "--zone=z", "--type=v6e-8", f"--slices={'9' * 24}"], ["999999999"]),
        (["create", "pod", "--zone="], ["--zone is empty"]),
        (["create", "pod", "--zone"], ["--zone needs a value"]),
        (["create", "pod", "--zone=z", "--color=red"], ["--color=red"]),
        (["delete", "pod", "other", "--zone=z"], ["other"]),
        (["delete", "pod", "--zone=z", *PROGRAM], ["no program flags"]),
        (["run", "pod", "--zone=z"], ["--config="]),
        (["run", "pod", "--zone=z", "--", "--config=c.py"], ["--workdir=gs://"]),
        (["run", "pod", "--zone=z", "--", "--config=c.py", "--workdir=runs/x"], ["gs://"]),
    ],
)
def test_a_mistake_is_one_line(arguments, words):
    assert_misuse(run_script("tpu_vm.sh", *arguments), *words)


def test_all_creates_installs_runs_and_gives_back(cloud):
    states = ["", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    workers = ["down", "new,new", "running", "running,exit 0", "exit 0"]
    assert cloud(states, workers) == (0, ["create", "install", "run", "log", "delete"])


def test_all_takes_over_what_runs_already_and_can_keep_the_tpu(cloud):
    assert cloud(["ACTIVE"], ["running", "exit 0"], "--keep") == (0, ["log"])


def test_preempted_tpus_are_requested_again_however_often(cloud):
    states = ["ACTIVE"] + 2 * ["SUSPENDING", "SUSPENDED", "", "ACTIVE", "ACTIVE"]
    workers = ["running", *2 * ["new", "running"], "exit 0"]
    again = ["delete", "create", "install", "run"]
    assert cloud(states, workers, "--restarts=1") == (0, [*again, *again, "log", "delete"])


@pytest.mark.parametrize(
    "crash", ["exit 143", "exit 137,exit 1", "lost,exit 1", "exit 1,down", "exit 0,exit 1"]
)
def test_a_crash_starts_the_program_again(cloud, crash):
    assert cloud(["ACTIVE"], [crash, "running", "exit 0"]) == (0, ["run", "log", "delete"])


def test_crashes_are_limited_and_the_tpu_stays(cloud):
    assert cloud(["ACTIVE"], ["lost"], "--restarts=2") == (1, ["run", "run", "log"])


@pytest.mark.parametrize("code", [1, 2])
def test_what_no_restart_mends_ends_with_the_same_status_and_the_tpu_stays(cloud, code, tmp_path):
    assert cloud(["ACTIVE"], ["running", f"exit {code}"]) == (code, ["log"])
    (log,) = (tmp_path / "logs").iterdir()
    assert log.read_text().splitlines() == [f"worker-0: line {n}" for n in range(1, 101)]


@pytest.mark.parametrize("answer", ["exit 0,down", "running,down", "running,lost"])
def test_a_tpu_that_stays_half_alive_is_replaced_once_its_output_is_here(cloud, answer):
    states = ["ACTIVE"] * 10 + ["", "ACTIVE"]
    course = ["log", "delete", "create", "install", "run", "log", "delete"]
    assert cloud(states, [answer] * 10 + ["new", "exit 0"]) == (0, course)


def test_a_tpu_that_does_not_answer_is_never_deleted(cloud):
    assert cloud(["ACTIVE"], ["down"] * 15 + ["running", "exit 0"], "--keep") == (0, ["log"])
    assert cloud(["ACTIVE"], ["down"], "--restarts=2")[1].count("delete") == 0


def test_a_failed_request_is_made_again_but_not_forever(cloud):
    course = ["delete", "delete", "log"]
    assert cloud(["FAILED"], ["down"], "--restarts=1") == (1, course)
