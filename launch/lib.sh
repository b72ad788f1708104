# Shared by the scripts: settings, --dry-run, and restarting a run.
# shellcheck shell=bash

LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SETTINGS=${SETTINGS:-$LAUNCH/settings.env}
[[ $SETTINGS == /* ]] || SETTINGS=$PWD/$SETTINGS
export SETTINGS # scripts that this one starts may be in another folder
DRY_RUN=false
# shellcheck source=launch/settings.env
source "$SETTINGS"

# Exit codes of nonlocal_jax, see nonlocal_jax/errors.py.
USER_ERROR=2
PREEMPTED=75
INTERRUPTED=130

say() { echo "launch: $*" >&2; }

fail() {
  say "$*"
  exit "$USER_ERROR"
}

# Prints the comment at the beginning of a script, its manual.
usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$1"
  exit "${2:-0}"
}

# Quotes words for a shell.
quote() {
  local word line=
  for word in "$@"; do
    if [[ -z $word || $word =~ [^A-Za-z0-9_./:=@,+-] ]]; then
      word="'${word//\'/\'\\\'\'}'"
    fi
    line+="$word "
  done
  echo "${line% }"
}

# Runs a command, or prints it with --dry-run.
run() {
  if "$DRY_RUN"; then
    quote "$@"
  else
    "$@"
  fi
}

# Ends the script if one of the named settings is empty.
need() {
  local name
  for name in "$@"; do
    [[ -n ${!name:-} ]] || fail "$name is empty: set it in $SETTINGS."
  done
}

# Runs a command until it succeeds: again after every preemption, and $CRASHES times after a crash.
supervise() {
  local code crashes=0
  while true; do
    code=0
    "$@" || code=$?
    case $code in
      0 | "$USER_ERROR" | "$INTERRUPTED") return "$code" ;;
      "$PREEMPTED") say "preempted and saved; starting again" ;;
      *)
        crashes=$((crashes + 1))
        ((crashes <= CRASHES)) || return "$code"
        say "ended with code $code; starting again ($crashes of $CRASHES)"
        ;;
    esac
    sleep "$RESTART_SECONDS"
  done
}

# The exit code of a job from those of its processes: an error that a person must correct comes first.
job_code() {
  local code first=0
  for code in "$@"; do
    ((code != USER_ERROR)) || { echo "$code" && return; }
    ((first != 0 && code != PREEMPTED)) || first=$code
  done
  echo "$first"
}
