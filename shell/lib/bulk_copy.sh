# shellcheck shell=bash
# Large transfers from S3 on the instance: by s5cmd, which has come with the scripts, else by the AWS CLI.
# Reads CHRONOS_BUCKET.
[[ -n ${_CHRONOS_BULK_COPY:-} ]] && return 0
readonly _CHRONOS_BULK_COPY=1

_bulk_copy_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=log.sh
source "$_bulk_copy_lib_dir/log.sh"
# shellcheck source=request_count.sh
source "$_bulk_copy_lib_dir/request_count.sh"

# Parts of one object that are fetched at once, and their size.
readonly S5CMD_PARTS=16 S5CMD_PART_MIB=8

# Sets s5cmd_call: s5cmd with the endpoint of the standard AWS variables, which it does not read itself.
_find_s5cmd() {
  local endpoint=${AWS_ENDPOINT_URL_S3:-${AWS_ENDPOINT_URL:-}}
  command -v s5cmd >/dev/null || return 1
  s5cmd_call=(s5cmd --log error --retry-count 5 ${endpoint:+--endpoint-url "$endpoint"})
}

# Prints the sha256 of its input. OpenSSL's is up to eight times as fast as coreutils'.
sha256_of_input() {
  if command -v openssl >/dev/null; then
    openssl dgst -sha256 -r | cut -c1-64
  else
    sha256sum | cut -c1-64
  fi
}

# Writes what a command prints into a file, and its sha256 into FILE.sha256, in one pass. Run in the background: TERM ends the
# command at once, and the rest comes to its end by itself. <file> <command…>
_tee_with_digest() {
  local file=$1 from sink status=0
  shift
  coproc DIGEST { tee "$file" | sha256_of_input; }
  local digester=$DIGEST_PID to=${DIGEST[1]}
  # Copies: Bash closes its own when the coprocess ends.
  exec {from}<&"${DIGEST[0]}" {sink}>&"$to"
  exec {to}>&-
  trap 'kill "$!" 2>/dev/null; exit "$EXIT_TERMINATED"' TERM
  "$@" >&"$sink" {sink}>&- {from}<&- &
  exec {sink}>&-
  wait "$!" || status=$?
  cat <&"$from" >"$file.sha256"
  wait "$digester" || status=$?
  return "$status"
}

# Fetches one object and compares its sha256 while it comes. <key> <file> <sha256>
# Returns 0; 1 when it could not be fetched; 2 when it is not what it should be.
fetch_checked() {
  local uri="s3://$CHRONOS_BUCKET/$1" file=$2 way status=1
  local -a s5cmd_call=() command
  for way in s5cmd aws; do
    case $way in
      s5cmd)
        _find_s5cmd || continue
        command=("${s5cmd_call[@]}" cat --raw --concurrency "$S5CMD_PARTS" --part-size "$S5CMD_PART_MIB" "$uri")
        ;;
      aws) command=(aws s3 cp --quiet "$uri" -) ;;
    esac
    if run_waiting _tee_with_digest "$file" "${command[@]}"; then
      note_download "$file"
      if [[ $(<"$file.sha256") == "$3" ]]; then return 0; fi
      status=2
      break
    fi
    log_warn "$uri could not be fetched by $way"
  done
  rm -f "$file" "$file.sha256"
  return "$status"
}
