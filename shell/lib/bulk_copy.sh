# shellcheck shell=bash
# Large transfers from S3 on the instance: by s5cmd, which has come with the scripts, else by the AWS CLI.
# Reads CHRONOS_BUCKET.
[[ -n ${_CHRONOS_BULK_COPY:-} ]] && return 0
readonly _CHRONOS_BULK_COPY=1

_bulk_copy_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=log.sh
source "$_bulk_copy_lib_dir/log.sh"
# shellcheck source=package_file.sh
source "$_bulk_copy_lib_dir/package_file.sh"
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

# Fetches one small object: by s5cmd, which starts in a tenth of the AWS CLI's time. <uri> <file>
fetch_object() {
  local -a s5cmd_call=()
  if _find_s5cmd && run_waiting "${s5cmd_call[@]}" cp --raw "$1" "$2" >/dev/null; then return 0; fi
  run_waiting aws s3 cp --only-show-errors "$1" "$2"
}

# Prints the sha256 of its input. OpenSSL's is up to eight times as fast as coreutils'.
sha256_of_input() {
  if command -v openssl >/dev/null; then
    openssl dgst -sha256 -r | cut -c1-64
  else
    sha256sum | cut -c1-64
  fi
}

# Prints the sha256 over the sha256s of a file's pieces. It takes the place of the process that calls it. <file>
_pieces_sha256() {
  local program
  program=$(package_file pieces_digest.py) || return $?
  exec python3 -I "$program" "$1"
}

# Fetches one object and compares the sha256 of its pieces. Takes FILE.coming away when all bytes have come. <key> <file> <sha256>
# Returns 0; 1 when it could not be fetched; 2 when it is not what it should be; 3 when that cannot be told; 137 and the like when
# the kernel has ended what tells it.
fetch_checked() {
  local file=$2 status=0
  _fetch_by_either "s3://$CHRONOS_BUCKET/$1" "$file" || status=1
  rm -f "$file.coming"
  if ((status == 0)); then
    note_download "$file"
    run_waiting _pieces_sha256 "$file" >"$file.sha256" || status=$?
    if ((status == 0)); then
      if [[ $(<"$file.sha256") == "$3" ]]; then return 0; fi
      status=2
    elif ((status <= 128)); then
      status=3
    fi
  fi
  rm -f "$file" "$file.sha256"
  return "$status"
}

# <uri> <file>
_fetch_by_either() {
  local -a s5cmd_call=()
  if _find_s5cmd; then
    if run_waiting "${s5cmd_call[@]}" cp --raw --concurrency "$S5CMD_PARTS" --part-size "$S5CMD_PART_MIB" "$1" "$2" >/dev/null; then return 0; fi
    log_warn "$1 could not be fetched by s5cmd"
  fi
  if run_waiting aws s3 cp --quiet "$1" "$2" >/dev/null; then return 0; fi
  log_warn "$1 could not be fetched by aws"
  return 1
}
