# shellcheck shell=bash
# What runs beside the phases on the instance: the log uploader, and the watch for a kill.
[[ -n ${_CHRONOS_COMPANIONS:-} ]] && return 0
readonly _CHRONOS_COMPANIONS=1

_companions_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=children.sh
source "$_companions_lib_dir/children.sh"
# shellcheck source=state_helpers.sh
source "$_companions_lib_dir/state_helpers.sh"

readonly KILLED_BY_OPERATOR='killed by operator'

# S3 has no append, so an object is written whole each time the log has grown. A log beyond this many bytes goes on in a
# next object, and no upload sends more; `invoke logs` reads them in a row (workstation/logs.py has the same number).
readonly LOG_PART_BYTES=$((8 * 1024 * 1024))

# Prints the key of a log's part: the first is the log's own, then `.00002` and so on. <key> <number>
_part_key() {
  if (($2 == 1)); then printf '%s\n' "$1"; else printf '%s.%05d\n' "$1" "$2"; fi
}

# Uploads some bytes of a file. The tag lets a lifecycle rule delete logs wherever they lie.
# <file> <bucket> <key> <first byte> <how many>
_put_log_part() {
  local body=$1 cut folder="${CHRONOS_ROOT:-}/dev/shm" status=0
  [[ -w $folder ]] || folder=${1%/*}
  # A log grows while it is sent, and S3 refuses bytes that are not those of the checksum: a cut of it is sent. That lies in
  # memory where it can; without room for one, a log of less than half a part is sent as it is.
  if cut=$(mktemp "$folder/chronos-log.XXXXXX") \
    && dd if="$1" of="$cut" bs=1M iflag=skip_bytes,count_bytes skip="$4" count="$5" status=none; then
    body=$cut
  elif (($4 > 0 || $5 > LOG_PART_BYTES / 2)); then
    status=1
  fi
  if ((status == 0)); then
    note_requests P
    timeout 60 aws s3api put-object --bucket "$2" --key "$3" --body "$body" --content-type text/plain \
      --tagging chronos-class=log >/dev/null || status=$?
  fi
  if [[ -n $cut ]]; then rm -f "$cut"; fi
  return "$status"
}

# Uploads what S3 does not have of a log: its full parts once, then the one that grows. <file> <bucket> <key>
upload_log() {
  local full size
  size=$(stat -c %s "$1") || return $?
  full=$(cat "$1.parts" 2>/dev/null) || full=0
  if [[ -z $full || $full == *[!0-9]* ]]; then full=0; fi # a full disk has cut it
  while ((size >= (full + 1) * LOG_PART_BYTES)); do
    _put_log_part "$1" "$2" "$(_part_key "$3" "$((full + 1))")" "$((full * LOG_PART_BYTES))" "$LOG_PART_BYTES" || return $?
    full=$((full + 1))
    printf '%d\n' "$full" 2>/dev/null >"$1.parts" || true
  done
  if ((full > 0 && size == full * LOG_PART_BYTES)); then return 0; fi
  _put_log_part "$1" "$2" "$(_part_key "$3" "$((full + 1))")" "$((full * LOG_PART_BYTES))" "$((size - full * LOG_PART_BYTES))"
}

# Sleeps so that TERM ends a companion at once. A companion that is in the middle of a call finishes it first.
# <seconds>
_pause() {
  local before=${!:-}
  # Set before the sleep begins: a TERM between the two would leave it behind.
  trap '[[ ${!:-} == "$before" ]] || signal_child TERM "$!" || true; exit 0' TERM
  sleep "$1" &
  wait "$!"
  trap 'exit 0' TERM
}

# Uploads the log whenever it has grown.
# <file> <bucket> <key> <seconds between looks>
upload_log_continuously() {
  local size sent=-1 trouble
  trap 'exit 0' TERM
  while true; do
    size=$(stat -c %s "$1" 2>/dev/null) || size=$sent
    if [[ $size != "$sent" ]]; then
      if trouble=$(upload_log "$1" "$2" "$3" 2>&1); then
        sent=$size
      else
        log_warn "log upload failed, next try in $4 s: ${trouble//$'\n'/ }"
      fi
    fi
    _pause "$4"
  done
}

# Prints why the run must stop, if it must: `killed`, or `lost` when the claim is not this run's any more. <bucket> <env> <run_id>
reason_to_stop() {
  local status
  read_state "$1" "$2" 2>/dev/null && status=0 || status=$?
  _reason_in_state "$status" "$3"
}

# The same of a state that has been read; nothing, not even a line, where there is none. <read_state's status> <run_id>
_reason_in_state() {
  case $1 in
    "$EXIT_NO_SUCH_RUN") printf 'lost\n' ;;
    0)
      # shellcheck disable=SC2016  # a jq program
      jq -r --arg run "$2" --arg killed "$KILLED_BY_OPERATOR" '
        if .run_id != $run then "lost"
        elif .status == "killed" or (.status == "failed" and .error_message == $killed) then "killed"
        else empty end' <<<"$STATE_JSON"
      ;;
  esac
}

# Writes a heartbeat when the state that has been read is a minute old. While training, the wrapper's own heartbeat must show.
# <bucket> <env> <run_id>
beat_if_quiet() {
  local body
  # shellcheck disable=SC2016  # a jq program
  jq -e --arg run "$3" '.run_id == $run and .status != "training" and now - (.timestamps.last_update | fromdateiso8601) > 60' \
    <<<"$STATE_JSON" >/dev/null 2>&1 || return 0
  body=$(_next_state '{}') || return 0
  atomic_write_state "$1" "$2" "$body" "$STATE_ETAG" 2>/dev/null || true # another writer was faster: a sign of life as well
}

# Writes why the run is to end, unless something came first. On a full disk there is room for it: the ballast's; without any
# the run ends all the same. <reason file> <reason>
give_reason() {
  [[ -z ${ballast:-} ]] || rm -f "$ballast" 2>/dev/null || true
  [[ -s $1 ]] || printf '%s\n' "$2" >"$1" 2>/dev/null || true
}

# Sends TERM to the bootstrap when its run has been killed or has lost its claim; writes the reason to a file first.
# <bucket> <env> <run_id> <pid> <reason file> <seconds between looks>
watch_for_kill() {
  local reason status
  trap 'exit 0' TERM
  while true; do
    _pause "$6"
    read_state "$1" "$2" 2>/dev/null && status=0 || status=$?
    reason=$(_reason_in_state "$status" "$3")
    if [[ -n $reason ]]; then
      give_reason "$5" "$reason"
      kill -TERM "$4" 2>/dev/null || true
      return 0
    fi
    if ((status == 0)); then beat_if_quiet "$1" "$2" "$3"; fi
  done
}
