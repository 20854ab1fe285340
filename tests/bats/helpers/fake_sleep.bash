# shellcheck shell=bash
# Read by every Bash through BASH_ENV. The first one is the script under test: the fakes may signal it.
: "${FAKE_MAIN_PID:=$$}"
export FAKE_MAIN_PID

# $FAKE_MINUTES: the so many'th sleep of a minute ends the shell that sleeps, so that a count-down has an end. Such
# a minute lasts until the program that counts in the background has ended, as any minute would.
sleep() {
  if [[ -n ${FAKE_MINUTES:-} && $* == 60 ]]; then
    while [[ $BASHPID != "$$" ]] && kill -0 "$$" 2>/dev/null; do command sleep 0.01; done
    _minutes_slept=$((${_minutes_slept:-0} + 1))
    if ((_minutes_slept >= FAKE_MINUTES)); then exit 0; fi
  fi
  printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"
  SECONDS=$((SECONDS + ${1%%.*}))
}
