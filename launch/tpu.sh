#!/usr/bin/env bash
# Trains on a Cloud TPU slice, single host or pod, requested by a queued resource.
#
#   launch/tpu.sh [--dry-run] create                 requests the slice
#   launch/tpu.sh [--dry-run] wait                   waits until it is ready
#   launch/tpu.sh [--dry-run] setup                  brings bucket and container to all workers
#   launch/tpu.sh [--dry-run] train FLAGS            runs nonlocal_jax.main on all workers
#   launch/tpu.sh [--dry-run] delete                 gives the slice back
#   launch/tpu.sh [--dry-run] supervise FLAGS        all of these, again after every preemption
#
# Settings: PROJECT, ZONE, NAME, BUCKET, IMAGE, ACCELERATOR_TYPE, RUNTIME_VERSION, SPOT, KEEP_SLICE.

set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

tpus() { # what `gcloud compute tpus` takes
  run gcloud compute tpus "$@" "--project=$PROJECT" "--zone=$ZONE"
}

create() {
  local options=("--node-id=$NAME" "--accelerator-type=$ACCELERATOR_TYPE")
  options+=("--runtime-version=$RUNTIME_VERSION")
  [[ $SPOT != true ]] || options+=(--spot)
  tpus queued-resources create "$NAME" "${options[@]}"
}

delete() {
  tpus queued-resources delete "$NAME" --force --quiet
}

# The state of the queued resource; NONE if it does not exist.
state() {
  tpus queued-resources describe "$NAME" "--format=value(state.state)" 2>/dev/null || echo NONE
}

await() {
  local now
  if "$DRY_RUN"; then
    state
    return
  fi
  while true; do
    now=$(state)
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | NONE) say "the slice is $now" && return 1 ;;
    esac
    say "the slice is $now; looking again in $POLL_SECONDS s"
    sleep "$POLL_SECONDS"
  done
}

# Runs tpu_worker.sh, which setup() has copied, on all workers.
on_workers() {
  local command
  command=$(quote launch/tpu_worker.sh "$@")
  tpus tpu-vm ssh "$NAME" --worker=all "--command=$command" || return
  if "$DRY_RUN"; then
    echo "# where that is:"
    "$LAUNCH/tpu_worker.sh" --dry-run "$@"
  fi
}

setup() {
  tpus tpu-vm ssh "$NAME" --worker=all "--command=mkdir -p launch" &&
    tpus tpu-vm scp "$LAUNCH/lib.sh" "$LAUNCH/tpu_worker.sh" "$NAME:launch/" --worker=all &&
    tpus tpu-vm scp "$SETTINGS" "$NAME:launch/settings.env" --worker=all &&
    on_workers setup
}

train() {
  on_workers train "$@"
}

# Makes sure that there is an active slice.
bring_up() {
  local now=NONE
  "$DRY_RUN" || now=$(state)
  case $now in
    ACTIVE) return 0 ;;
    FAILED | SUSPENDING | SUSPENDED) delete && create ;;
    NONE) create ;;
  esac && await
}

# One attempt at the whole run. If the slice is gone, it was preempted, whatever the exit code of ssh.
attempt() {
  local code=0
  bring_up && setup && train "$@" || code=$?
  if ((code != 0 && code != USER_ERROR)) && [[ $(state) != ACTIVE ]]; then
    code=$PREEMPTED
  fi
  return "$code"
}

supervise_slice() {
  local code=0
  supervise attempt "$@" || code=$?
  if [[ $KEEP_SLICE == true ]]; then
    say "the slice stays, and costs, until: launch/tpu.sh delete"
  else
    delete
  fi
  return "$code"
}

case ${1:-} in
  --dry-run) DRY_RUN=true && shift ;;
  --help | -h) usage "$0" ;;
esac
[[ $# -gt 0 ]] || usage "$0" "$USER_ERROR"
command=$1
shift
need PROJECT ZONE NAME BUCKET IMAGE ACCELERATOR_TYPE RUNTIME_VERSION

case $command in
  create | setup | train | delete) "$command" "$@" ;;
  wait) await ;;
  supervise) supervise_slice "$@" ;;
  *) usage "$0" "$USER_ERROR" ;;
esac
