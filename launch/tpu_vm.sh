#!/usr/bin/env bash
# Trains on Cloud TPU VMs, one host or a pod, one slice or several, through queued resources:
#
#   launch/tpu_vm.sh [--dry-run] COMMAND NAME --zone=ZONE [OPTION ...] [-- PROGRAM FLAGS]
#
#   create    requests the TPU and waits until it is there
#   install   copies this checkout (HEAD) to every worker and installs it
#   run       starts the program on every worker; it goes on without this connection
#   status    says what the TPU and every worker are doing
#   logs      follows the output of the first worker
#   stop      lets the program save its state and end
#   delete    gives the TPU back
#   all       create, install, run; again after preemptions and crashes; delete when complete
#
#   --type=TYPE            of a slice: v5litepod-16, v5p-32, v6e-64, v4-32 (create, all)
#   --slices=1             how many slices make up the run
#   --spot                 cheaper capacity that may be taken away at any time
#   --runtime-version=...  of the TPU VM; by default that which fits --type
#   --restarts=20          how many crashes `all` survives; preemptions do not count
#   --keep                 `all` does not delete the TPU when the run is complete
#
# A TPU whose run did not end well stays, and costs. `all` copies the output of all workers to
# runs/NAME-TIME.log (LOG_DIR names another folder), at the end and before it replaces a TPU.
#
# The program's flags are those of python -m ibot_jax.main. Needs gcloud, logged in, with a project
# set. docs/pods.md is the runbook. Not tried on a TPU yet.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/options.sh

POLL_SECONDS=${POLL_SECONDS:-60}
LOG_DIR=${LOG_DIR:-runs}
# Workers end a little apart, and a new TPU takes a while to let anyone in; so many polls in a row
# with only some of them running, or none to be reached, is a crash.
PATIENCE_POLLS=10

dry_run='' zone='' type='' slices=1 spot='' runtime_version='' restarts=20 keep=''
parse_options "dry-run zone= type= slices= spot runtime-version= restarts= keep" "$@"
[ ${#words[@]} -gt 0 ] || misuse "a command is missing"
command=${words[0]}
case $command in
  create | install | run | status | logs | stop | delete | all) ;;
  *) misuse "$command is no command" ;;
esac
[ ${#words[@]} -gt 1 ] || misuse "the TPU's name is missing"
[ ${#words[@]} -eq 2 ] || misuse "${words[2]} is one word too many (the program's flags follow --)"
name=${words[1]}
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || misuse "$name is no name: a-z, 0-9 and - only"
require zone
require_count slices restarts
require_form '[a-z][-a-z0-9]*' "zone such as us-east5-b" zone
require_form '[a-z0-9]+-[1-9][0-9]*' "type such as v6e-64" type
require_form '[a-z][-a-z0-9.]*' "runtime version such as v2-alpha-tpuv6e" runtime-version
case $command in
  create | all) require type ;;
esac
case $command in
  run | all)
    require_program --config=
    require_program --workdir=gs:// "a bucket, which all workers reach and which outlives the TPU"
    ;;
  *) [ ${#program[@]} -eq 0 ] || misuse "$command takes no program flags" ;;
esac

queued=(gcloud compute tpus queued-resources)
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

say() {
  echo "$(date '+%F %T') $*" >&2
}

on_workers() {
  execute "${queued[@]}" ssh "$name" --zone="$zone" --node=all --worker=all --command="$1"
}

# Prints the request's state, nothing where there is no request. Unlike describe, list tells a
# missing request from a failing network.
tpu_state() {
  execute "${queued[@]}" list --zone="$zone" --filter="name~/$name\$" --format="value(state.state)"
}

default_runtime() {
  case $type in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

request() {
  local nodes=(--node-id="$name")
  if [ "$slices" -gt 1 ]; then nodes=(--node-count="$slices" --node-prefix="$name"); fi
  execute "${queued[@]}" create "$name" --zone="$zone" --accelerator-type="$type" \
    --runtime-version="${runtime_version:-$(default_runtime)}" "${nodes[@]}" ${spot:+--spot}
}

create() {
  local state
  request
  if [ -n "$dry_run" ]; then
    tpu_state
    return
  fi
  while :; do
    state=$(tpu_state) || state="out of reach"
    case $state in
      ACTIVE) return ;;
      '' | FAILED | SUSPENDED | SUSPENDING)
        say "$name is ${state:-gone}; gcloud compute tpus queued-resources describe tells why"
        return 1
        ;;
    esac
    say "$name: $state"
    sleep "$POLL_SECONDS"
  done
}

install() {
  local archive=ibot_jax.tar.gz
  local stop="{ test ! -e ibot_jax/launch/worker.sh || ibot_jax/launch/worker.sh stop; }"
  local unpack="rm -rf ibot_jax && tar -xzf ibot_jax.tar.gz"
  if [ -z "$dry_run" ]; then archive=$temporary/$archive; fi
  execute git archive --format=tar.gz --prefix=ibot_jax/ --output="$archive" HEAD &&
    execute "${queued[@]}" scp "$archive" "$name:" --zone="$zone" --node=all --worker=all &&
    on_workers "$stop && $unpack && ibot_jax/launch/worker.sh install"
}

run() {
  on_workers "ibot_jax/launch/worker.sh start $(quoted "${program[@]}")"
}

delete() {
  execute "${queued[@]}" delete "$name" --zone="$zone" --force --quiet
}

# Prints one word for what the workers say: see watch.
program_state() {
  local states
  states=$({
    on_workers "ibot_jax/launch/worker.sh state || echo 'state: new'" ||
      echo "state: unreachable"
  } | sed -n 's/^state: //p' | sort -u | tr '\n' ,)
  case ,$states in
    ,unreachable,) echo unreachable ;;
    *,new,*) echo new ;;
    ,running,) echo running ;;
    *,running,* | *",exit 0,unreachable,") echo mixed ;;
    # Codes count when all agree: survivors of a lost worker end with 1, too, and a program that is
    # complete on one worker is so at once on all when it starts again.
    ",exit 0,") echo complete ;;
    ",exit 2,") echo misuse ;;
    ",exit 1,") echo failed ;;
    *) echo crashed ;;
  esac
}

# Copies the whole output of all workers that answer, and shows its end; fails if none does.
fetch_log() {
  local log
  log="$LOG_DIR/$name-$(date +%Y%m%d-%H%M%S).log"
  if [ -n "$dry_run" ]; then
    print_log
    return
  fi
  mkdir -p "$LOG_DIR"
  print_log >"$log" || true
  [ -s "$log" ] || return 1
  tail -n 20 "$log"
  say "the output of all workers is in $log"
}

print_log() {
  # shellcheck disable=SC2016
  on_workers 'sed "s/^/$HOSTNAME: /" train.log'
}

# Ends `all` with an exit status. The TPU is given back only where all went well.
finish() {
  fetch_log || say "no worker tells its output"
  if [ "$1" -eq 0 ] && [ -z "$keep" ]; then
    delete
  elif [ -n "$(tpu_state || echo UNREACHABLE)" ]; then
    say "$name is kept, and costs until launch/tpu_vm.sh delete $name --zone=$zone"
  fi
  exit "$1"
}

crashes=0
crash() {
  crashes=$((crashes + 1))
  say "$1 ($crashes of at most $restarts restarts)"
  if [ "$crashes" -gt "$restarts" ]; then finish 1; fi
}

# Brings the TPU, then the program, from wherever they are to the end. It holds no state that
# matters: ended and called again it takes over what runs.
watch() {
  local patience=0 state verdict
  trap 'say "no longer watching; $name goes on and costs. The same command takes over"; exit 130' \
    INT TERM
  while :; do
    state=$(tpu_state) || state=UNREACHABLE
    case $state in
      '')
        say "requesting $name"
        request || crash "the request was refused"
        ;;
      SUSPENDED)
        say "$name was preempted"
        delete || true
        ;;
      FAILED)
        delete || true
        crash "the request for $name failed"
        ;;
      ACTIVE)
        verdict=$(program_state)
        case $verdict in
          mixed | unreachable) patience=$((patience + 1)) ;;
          *) patience=0 ;;
        esac
        case $verdict in
          new)
            say "installing and starting"
            { install && run; } || crash "installing or starting failed"
            ;;
          complete)
            say "the run is complete"
            finish 0
            ;;
          misuse) finish 2 ;;
          failed) finish 1 ;;
          crashed)
            crash "the program ended early"
            run || true
            ;;
          unreachable)
            # The program may run there, and nothing is known of it: no reason to delete.
            if [ "$patience" -ge "$PATIENCE_POLLS" ]; then
              patience=0
              crash "no worker of $name answers"
            fi
            ;;
          mixed)
            if [ "$patience" -ge "$PATIENCE_POLLS" ]; then
              patience=0
              crash "some workers neither run nor answer"
              # Which of them cannot be mended from here is not known; a new TPU has other hosts.
              if fetch_log; then delete || true; fi
            fi
            ;;
        esac
        ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

case $command in
  status)
    tpu_state
    on_workers "ibot_jax/launch/worker.sh state; tail -n 1 train.log"
    ;;
  logs)
    execute "${queued[@]}" ssh "$name" --zone="$zone" --node=0 --worker=0 \
      --command="tail -n 100 -F train.log"
    ;;
  stop) on_workers "ibot_jax/launch/worker.sh stop" ;;
  all)
    if [ -z "$dry_run" ]; then watch; fi
    create
    install
    run
    on_workers "ibot_jax/launch/worker.sh state"
    fetch_log
    if [ -z "$keep" ]; then delete; fi
    ;;
  *) "$command" ;;
esac
