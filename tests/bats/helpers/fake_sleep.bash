# shellcheck shell=bash
# Read by every Bash through BASH_ENV. The first one is the script under test: the fakes may signal it.
: "${FAKE_MAIN_PID:=$$}"
export FAKE_MAIN_PID

# $FAKE_MINUTES: the so many'th sleep of a minute ends the shell that sleeps, so that a count-down has an end.
sleep() {
  if [[ -n ${FAKE_MINUTES:-} && $* == 60 ]]; then
    _minutes_slept=$((${_minutes_slept:-0} + 1))
    if ((_minutes_slept >= FAKE_MINUTES)); then exit 0; fi
  fi
  printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"
  SECONDS=$((SECONDS + ${1%%.*}))
}
