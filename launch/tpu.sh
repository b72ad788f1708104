#!/usr/bin/env bash
# Trains on a Cloud TPU slice, single host or pod, or on several, requested by a queued resource.
#
#   launch/tpu.sh [--dry-run] create                 requests the slice
#   launch/tpu.sh [--dry-run] wait                   waits until it is ready
#   launch/tpu.sh [--dry-run] setup                  brings bucket and container to all workers
#   launch/tpu.sh [--dry-run] train FLAGS            runs nonlocal_jax.main on all workers
#   launch/tpu.sh [--dry-run] delete                 gives the slice back
#   launch/tpu.sh [--dry-run] supervise FLAGS        all of these, again after every preemption
#
# Settings: PROJECT, ZONE, NAME, BUCKET, IMAGE, ACCELERATOR_TYPE, RUNTIME_VERSION, SLICES, SPOT,
# RESERVED, RESERVATION, FLEX_START, MAX_RUN_DURATION, KEEP_SLICE.

set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

tpus() { # what `gcloud compute tpus` takes
  run gcloud compute tpus "$@" "--project=$PROJECT" "--zone=$ZONE"
}

create() {
  local options=("--node-id=$NAME") release=()
  ((SLICES == 1)) || options=("--node-count=$SLICES" "--node-prefix=$NAME")
  options+=("--accelerator-type=$ACCELERATOR_TYPE" "--runtime-version=$RUNTIME_VERSION")
  case $CAPACITY in
    SPOT) options+=(--spot) ;;
    RESERVED)
      if [[ -z $RESERVATION ]]; then
        options+=(--reserved)
      else # its full name
        release=(alpha)
        [[ $RESERVATION == */* ]] ||
          RESERVATION=projects/$PROJECT/locations/$ZONE/reservations/$RESERVATION
        options+=("--reservation=$RESERVATION")
      fi
      ;;
    FLEX_START)
      release=(alpha)
      options+=(--provisioning-model=flex-start "--max-run-duration=$MAX_RUN_DURATION")
      ;;
  esac
  run gcloud ${release[@]+"${release[@]}"} compute tpus queued-resources create "$NAME" \
    "${options[@]}" "--project=$PROJECT" "--zone=$ZONE"
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

# Runs ssh or scp on the workers of the slice, or of all slices.
reach() {
  local verb=$1
  shift
  if ((SLICES > 1)); then
    tpus queued-resources "$verb" "$@" --node=all
  else
    tpus tpu-vm "$verb" "$@"
  fi
}

# Runs tpu_worker.sh, which setup() has copied, on all workers.
on_workers() {
  local command
  command=$(quote launch/tpu_worker.sh "$@")
  reach ssh "$NAME" --worker=all "--command=$command" || return
  if "$DRY_RUN"; then
    echo "# where that is:"
    "$LAUNCH/tpu_worker.sh" --dry-run "$@"
  fi
}

setup() {
  reach ssh "$NAME" --worker=all "--command=mkdir -p launch" &&
    reach scp "$LAUNCH/lib.sh" "$LAUNCH/tpu_worker.sh" "$NAME:launch/" --worker=all &&
    reach scp "$SETTINGS" "$NAME:launch/settings.env" --worker=all &&
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
# Whatever the settings have become, what is there can be given back.
[[ $command == delete ]] || check_capacity
[[ $ACCELERATOR_TYPE != tpu7x* ]] ||
  fail "ACCELERATOR_TYPE=$ACCELERATOR_TYPE: TPU7x has no queued resources; use launch/gke.sh."

case $command in
  create | setup | train | delete) "$command" "$@" ;;
  wait) await ;;
  supervise) supervise_slice "$@" ;;
  *) usage "$0" "$USER_ERROR" ;;
esac
