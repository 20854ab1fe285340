# shellcheck shell=bash
# A stand-in for the metadata service (IMDSv2): answers from the files in $FAKE_IMDS, and only to a request with the token.
# Without that folder nothing answers, as on a laptop.
set -Eeuo pipefail
{
  printf '%q ' curl "$@"
  printf '\n'
} >>"$FAKE_AWS_DIR/curl"
url=${*: -1}
if [[ ! -d ${FAKE_IMDS:-} ]]; then exit 7; fi
# Answers with a status. <HTTP status> [file]
answer() {
  if [[ $* != 200* && $words == *' --fail '* ]]; then exit 22; fi
  if [[ $# == 2 ]]; then cat "$2"; fi
  if [[ $words == *' --write-out '* ]]; then printf '\n%s' "$1"; fi
}

# The token that is good now; a test may change it.
token=$(cat "$FAKE_IMDS/token" 2>/dev/null || printf 'a-token')
words="$*"
case "$words" in
  *' -X PUT -H X-aws-ec2-metadata-token-ttl-seconds: '*"/latest/api/token") printf '%s' "$token" ;;
  *"X-aws-ec2-metadata-token: $token "*)
    file="$FAKE_IMDS/${url##*/latest/}"
    if [[ -f $file ]]; then answer 200 "$file"; else answer 404; fi
    ;;
  *) answer 401 ;;
esac
