#!/usr/bin/env bash
# The Python of the training environment in the tests: says which program it was asked to run, and does what the
# test put into $FAKE_PYTHON/<program>.
set -Eeuo pipefail
case $* in
  '-c '*) program=version ;;
  */preflight_check.py*) program=preflight ;;
  */training_wrapper.py*) program=training ;;
  '-m chronos_ec2.instance.data_sync '*) program=data_sync ;;
  '-m chronos_ec2.instance.results_sync '*) program=results_sync ;;
  '-m chronos_ec2.instance.checkpoint_restore '*) program=checkpoint_restore ;;
  '-m chronos_ec2.instance.model_fetch '*) program=model_fetch ;;
  # It runs beside the others, until it is ended: its calls are noted apart, for their order is nobody's.
  '-m chronos_ec2.instance.checkpoint_sync '* | '-m chronos_ec2.instance.sampler '*)
    printf '%s\n' "$*" >>"$FAKE_PYTHON/beside-${2##*.}"
    exec sleep 600
    ;;
  # It runs beside the last upload of the log.
  '-m chronos_ec2.report '*)
    if [[ -e $FAKE_PYTHON/report ]]; then
      # shellcheck source=/dev/null
      source "$FAKE_PYTHON/report"
    fi
    printf 'a page' >"${*: -1}"
    exit 0
    ;;
  *) exit 98 ;;
esac
printf '%s\n' "$program $*" >>"$FAKE_PYTHON/calls"
if [[ -e $FAKE_PYTHON/$program ]]; then
  # shellcheck source=/dev/null
  source "$FAKE_PYTHON/$program"
elif [[ $program == preflight ]]; then
  printf '{"ok": true, "checks": [{"name": "disk", "ok": true, "detail": "40 GB free", "remedy": ""}]}\n'
fi
