#!/usr/bin/env bash
# Trains with several processes on this machine, as a pod does on several machines.
#
#   launch/local.sh [-n N] [--dry-run] --config=configs/demo.py [FLAGS of nonlocal_jax.main]
#
# If there are enough GPUs, each process uses one. The exit code is 2 if any process ended with 2, else 75
# if any was preempted, else that of the first that failed.

set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

processes=2
while true; do
  case ${1:-} in
    -n) processes=$2 && shift 2 ;;
    --dry-run) DRY_RUN=true && shift ;;
    --help | -h) usage "$0" ;;
    *) break ;;
  esac
done
[[ $# -gt 0 ]] || usage "$0" "$USER_ERROR"
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "-n $processes: give the number of processes."

coordinator="127.0.0.1:${PORT:-$((20000 + RANDOM % 20000))}"
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)
pids=()
codes=()
interrupted=false

start() { # NUMBER FLAGS...
  local number=$1 command=("$PYTHON" -m nonlocal_jax.main)
  shift
  command+=("--coordinator=$coordinator" "--num_processes=$processes" "--process_id=$number")
  if ((processes > 1 && gpus >= processes)); then
    command=(env "CUDA_VISIBLE_DEVICES=$number" "${command[@]}")
  fi
  if "$DRY_RUN"; then
    run "${command[@]}" "$@"
  else
    "${command[@]}" "$@" &
    pids+=("$!")
  fi
}

tell() { # sends SIGNAL to all running processes
  local number
  for number in "${!pids[@]}"; do
    [[ -n ${codes[number]:-} ]] || kill "-$1" "${pids[number]}" 2>/dev/null || true
  done
}

# Waits for all processes. If one fails, the others wait for it, so they are stopped after a while.
await() {
  local number code deadline=
  while ((${#codes[@]} < processes)); do
    for number in "${!pids[@]}"; do
      [[ -z ${codes[number]:-} ]] || continue
      ! kill -0 "${pids[number]}" 2>/dev/null || continue
      code=0
      wait "${pids[number]}" || code=$?
      codes[number]=$code
      ((code == 0)) || deadline=${deadline:-$((SECONDS + GRACE_SECONDS))}
    done
    [[ -z $deadline ]] || ((SECONDS < deadline)) || tell KILL
    sleep 0.2
  done
}

# Both let the run save; only the second is a reason to start it again.
trap 'interrupted=true; tell TERM' INT
trap 'tell TERM' TERM

cd "$LAUNCH/.."
for ((number = 0; number < processes; number++)); do
  start "$number" "$@"
done
"$DRY_RUN" || await
"$interrupted" && exit "$INTERRUPTED"
exit "$(job_code "${codes[@]:-0}")"
