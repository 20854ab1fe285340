# shellcheck shell=bash
# A stand-in for the AWS CLI: records its argv, answers what the test planned, keeps S3 objects as files when the test
# asked for that, and rejects everything else with exit code 97.
set -Eeuo pipefail
: "${FAKE_AWS_DIR:?the fake aws works inside a test only}"
# shellcheck source=fake_s3.bash
source "${BASH_SOURCE[0]%/*}/fake_s3.bash"

# Time-outs change no answer; a test that is about them looks here.
if [[ ${1:-} == --cli-connect-timeout ]]; then
  printf '%s\n' "${*:1:4}" >>"$FAKE_AWS_DIR/timeouts"
  shift 4
fi
line=$*
exec 9>>"$FAKE_AWS_DIR/lock"
flock 9
{
  printf '%q ' "$@"
  printf '\n'
} >>"$FAKE_AWS_DIR/calls"
printf '%s\n' "${line//$'\n'/ }" >>"$FAKE_AWS_DIR/calls.plain"
if [[ -n ${BATS_AWS_DEBUG:-} ]]; then printf '# aws %s\n' "$line" >&3; fi

answer_from_s3() {
  [[ -d $FAKE_AWS_DIR/s3 && $1 == s3* ]] && fake_s3 "$@"
}

pattern='' out='' err='' code=0 lost=false before='' pass=false
for entry in "$FAKE_AWS_DIR"/plan/*.entry; do
  [[ -e $entry ]] || continue
  # shellcheck source=/dev/null
  source "$entry"
  # shellcheck disable=SC2053  # a pattern on purpose
  [[ $line == $pattern ]] || continue
  left=$(<"${entry%.entry}.left")
  if [[ $left == 0 ]]; then continue; fi
  if [[ $left != any ]]; then printf '%d\n' "$((left - 1))" >"${entry%.entry}.left"; fi
  if [[ -n $before ]]; then
    flock -u 9
    eval "$before"
    flock 9
  fi
  if [[ $pass == true ]]; then break; fi
  if [[ $lost == true ]]; then answer_from_s3 "$@" >/dev/null; fi
  if [[ $code == 0 && $1 == ec2 && $2 != describe-* ]]; then printf '%s\n' "$2" >>"$FAKE_AWS_DIR/effects"; fi
  if [[ -n $out ]]; then printf '%s\n' "$out"; fi
  if [[ -n $err ]]; then printf '\n%s\n' "$err" >&2; fi
  exit "$code"
done

if [[ -d $FAKE_AWS_DIR/s3 && ${1:-} == s3* && $line != *--generate-cli-skeleton* ]]; then
  fake_s3 "$@"
  exit
fi
printf '%s\n' "$line" >>"$FAKE_AWS_DIR/unplanned"
printf 'fake aws: not planned: %s\n' "$line" >&2
exit 97
