# Shared by the scripts: settings, --dry-run, and restarting a run.
# shellcheck shell=bash

LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SETTINGS=${SETTINGS:-$LAUNCH/settings.env}
[[ $SETTINGS == /* ]] || SETTINGS=$PWD/$SETTINGS
export SETTINGS # scripts that this one starts may be in another folder
DRY_RUN=false
# shellcheck source=launch/settings.env
source "$SETTINGS"
# Defaults for older settings files.
: "${SLICES:=1}" "${SPOT:=true}" "${RESERVED:=false}" "${RESERVATION:=}" "${FLEX_START:=false}"
: "${MAX_RUN_DURATION:=}" "${GKE_MACHINE:=}" "${GKE_AUTHORIZED:=}"

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

# The seconds of a duration such as 90m or 1d12h; fails for anything else.
seconds() {
  local rest=$1 total=0
  local -A unit=([d]=86400 [h]=3600 [m]=60 [s]=1)
  [[ $rest =~ ^([0-9]+[dhms])+$ ]] || return 1
  while [[ $rest =~ ^([0-9]+)([dhms])(.*)$ ]]; do
    total=$((total + 10#${BASH_REMATCH[1]} * unit[${BASH_REMATCH[2]}]))
    rest=${BASH_REMATCH[3]}
  done
  echo "$total"
}

# Sets CAPACITY to how TPUs are asked for. Ends the script if the settings contradict each other.
check_capacity() {
  local name wanted=() most=$((7 * 86400)) duration
  for name in SPOT RESERVED FLEX_START; do
    [[ ${!name} == true || ${!name} == false ]] || fail "$name=${!name}: it is true or false."
  done
  [[ $SLICES =~ ^[1-9][0-9]*$ ]] || fail "SLICES=$SLICES: give the number of slices."
  [[ $SPOT == false ]] || wanted+=(SPOT)
  [[ $RESERVED == false && -z $RESERVATION ]] || wanted+=(RESERVED)
  [[ $FLEX_START == false ]] || wanted+=(FLEX_START)
  ((${#wanted[@]} <= 1)) || fail "SPOT, RESERVED (or RESERVATION) and FLEX_START exclude each" \
    "other, and $SETTINGS asks for ${wanted[*]}."
  CAPACITY=${wanted[0]:-ON_DEMAND}
  if [[ $CAPACITY != FLEX_START ]]; then
    [[ -z $MAX_RUN_DURATION ]] || fail "MAX_RUN_DURATION is of FLEX_START, which is not true."
    return 0
  fi
  [[ -n $MAX_RUN_DURATION ]] || fail "FLEX_START needs MAX_RUN_DURATION, such as 12h."
  duration=$(seconds "$MAX_RUN_DURATION") ||
    fail "MAX_RUN_DURATION=$MAX_RUN_DURATION: write a duration such as 90m, 12h or 3d."
  ((duration > 0 && duration <= most)) ||
    fail "MAX_RUN_DURATION=$MAX_RUN_DURATION: flex-start gives seven days at most."
}

# The same for GKE, which takes no reservation without its name.
check_gke_capacity() {
  check_capacity
  [[ $CAPACITY != RESERVED || -n $RESERVATION ]] ||
    fail "RESERVED on GKE needs RESERVATION, the name of the reservation."
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
