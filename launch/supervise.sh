#!/usr/bin/env bash
# Runs a command until it succeeds: again after a preemption, and $CRASHES times after a crash.
#
#   launch/supervise.sh [--dry-run] COMMAND...
#   launch/supervise.sh launch/local.sh -n 2 --config=configs/demo.py
#
# Exit code 0 is done; 2 is an error that a person has to correct; 75 is preempted and saved.

set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

case ${1:-} in
  --dry-run) DRY_RUN=true && shift ;;
  --help | -h) usage "$0" ;;
esac
[[ $# -gt 0 ]] || usage "$0" "$USER_ERROR"

supervise run "$@"
