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
case "$*" in
  *' -X PUT -H X-aws-ec2-metadata-token-ttl-seconds: '*"/latest/api/token") printf 'a-token' ;;
  *'X-aws-ec2-metadata-token: a-token '*)
    file="$FAKE_IMDS/${url##*/latest/}"
    if [[ ! -f $file ]]; then exit 22; fi
    cat "$file"
    ;;
  *) exit 22 ;;
esac
