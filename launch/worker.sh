#!/usr/bin/env bash
# What tpu_vm.sh calls on every worker of a TPU:
#
#   launch/worker.sh install          a Python of its own, with this checkout and jax[tpu]
#   launch/worker.sh start FLAG ...   the program in the background, again if it runs already
#   launch/worker.sh state            prints new, running, lost (killed with the machine) or exit CODE
#   launch/worker.sh stop             lets the program save; kills it after STOP_SECONDS (300)
#
# The program's output goes to ~/train.log.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .worker

# Who runs holds the lock, which dies with its holder: a process id might be another's after a boot.
running() {
  ! flock --nonblock .worker/lock true
}

stop() {
  local waited=0
  running || return 0
  kill -TERM "$(cat .worker/pid)" || true
  while running; do
    if [ "$waited" -ge "${STOP_SECONDS:-300}" ]; then
      kill -KILL "$(cat .worker/pid)" || true
    fi
    sleep 1
    waited=$((waited + 1))
  done
}

start() {
  stop
  # Left by a killed process it keeps the next one from the TPU; another user's stays.
  rm -f /tmp/libtpu_lockfile 2>/dev/null || true
  rm -f .worker/exit .worker/pid
  exec 9>.worker/lock
  flock 9
  # shellcheck disable=SC2016
  setsid bash -c '
    "$@" & echo $! >.worker/pid
    code=0; wait $! || code=$?
    echo $code >.worker/exit' supervisor \
    "${PYTHON:-.venv/bin/python}" -m ibot_jax.main "$@" >>"$HOME/train.log" 2>&1 </dev/null &
  until [ -s .worker/pid ]; do sleep 0.1; done
}

state() {
  if running; then
    echo "state: running"
  elif [ -f .worker/exit ]; then
    echo "state: exit $(cat .worker/exit)"
  elif [ -f .worker/pid ]; then
    echo "state: lost"
  else
    echo "state: new"
  fi
}

install() {
  # Images come with Python 3.10, which is too old; uv brings its own.
  python3 -m pip install --quiet --user uv
  local uv="$HOME/.local/bin/uv"
  "$uv" venv --quiet --python=3.12 .venv
  "$uv" pip install --quiet --constraint=requirements.lock '.[tpu,gcs]'
}

case ${1:-} in
  install | start | state | stop) "$@" ;;
  *)
    echo "error: ${1:-nothing} is no command; it is install, start, state or stop" >&2
    exit 2
    ;;
esac
