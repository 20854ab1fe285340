# shellcheck shell=bash
# Read by every Bash through BASH_ENV. The first one is the script under test: the fakes may signal it.
: "${FAKE_MAIN_PID:=$$}"
export FAKE_MAIN_PID

sleep() {
  printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"
  SECONDS=$((SECONDS + ${1%%.*}))
}
