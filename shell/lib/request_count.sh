# shellcheck shell=bash
# Counts the S3 requests that an instance makes, for its run's cost: each is a letter in the file that
# CHRONOS_S3_REQUESTS names, P for PUT, COPY, POST and LIST, G for GET and HEAD; deletions are free. Python's clients
# write to the same file (instance/request_count.py). Without the variable, as on the laptop, nothing is counted.
[[ -n ${_CHRONOS_REQUEST_COUNT:-} ]] && return 0
readonly _CHRONOS_REQUEST_COUNT=1

# What a run asks for after it has been counted: its record (GET, PUT), the last of the log (PUT), the last look at the
# state (GET), its notice (2 GET, PUT).
readonly PUTS_AFTER_COUNT=3 GETS_AFTER_COUNT=4
# The AWS CLI fetches a larger file in parts of this size, after a HEAD.
readonly PART_BYTES=$((8 * 1024 * 1024))

# Notes requests of a kind. <P|G> [how many]
note_requests() {
  local letters
  [[ -n ${CHRONOS_S3_REQUESTS:-} ]] || return 0
  printf -v letters '%*s' "${2:-1}" ''
  printf '%s' "${letters// /$1}" >>"$CHRONOS_S3_REQUESTS" 2>/dev/null || true
}

# Notes the request behind a command, if it is one of S3's that costs. <command…>
note_call() {
  case "$*" in
    'aws '*'s3api put-object '* | 'aws '*'s3api copy-object '* | 'aws '*'s3api list-'*) note_requests P ;;
    _put_text\ *) note_requests P ;;
    'aws '*'s3api get-object '* | 'aws '*'s3api head-object '*) note_requests G ;;
  esac
}

# Notes the download of a file by `aws s3 cp`. <file>
note_download() {
  local bytes
  bytes=$(stat -c %s "$1" 2>/dev/null) || bytes=0
  note_requests G "$((1 + (bytes + PART_BYTES - 1) / PART_BYTES))"
}

# Prints {requests: {put, get}} of the whole run, or {} when nothing was counted.
counted_requests() {
  local puts gets
  if [[ ! -s ${CHRONOS_S3_REQUESTS:-} ]]; then
    printf '{}\n'
    return 0
  fi
  puts=$(tr -cd P <"$CHRONOS_S3_REQUESTS" | wc -c)
  gets=$(tr -cd G <"$CHRONOS_S3_REQUESTS" | wc -c)
  printf '{"requests":{"put":%d,"get":%d}}\n' "$((puts + PUTS_AFTER_COUNT))" "$((gets + GETS_AFTER_COUNT))"
}
