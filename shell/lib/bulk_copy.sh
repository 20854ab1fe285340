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
  local program="$_bulk_copy_lib_dir/../chronos_ec2/pieces_digest.py"
  if [[ ! -e $program ]]; then program="$_bulk_copy_lib_dir/../../python/chronos_ec2/pieces_digest.py"; fi # in the repository
  exec python3 -I "$program" "$1"
}

# Fetches one object and compares the sha256 of its pieces. Takes FILE.coming away when all bytes have come. <key> <file> <sha256>
# Returns 0; 1 when it could not be fetched; 2 when it is not what it should be.
fetch_checked() {
  local uri="s3://$CHRONOS_BUCKET/$1" file=$2 way status=1
  local -a s5cmd_call=() command
  for way in s5cmd aws; do
    case $way in
      s5cmd)
        _find_s5cmd || continue
        command=("${s5cmd_call[@]}" cp --raw --concurrency "$S5CMD_PARTS" --part-size "$S5CMD_PART_MIB" "$uri" "$file")
        ;;
      aws) command=(aws s3 cp --quiet "$uri" "$file") ;;
    esac
    if run_waiting "${command[@]}" >/dev/null; then
      note_download "$file"
      rm -f "$file.coming"
      if run_waiting _pieces_sha256 "$file" >"$file.sha256"; then
        if [[ $(<"$file.sha256") == "$3" ]]; then return 0; fi
        status=2
        break
      fi
      log_warn "the digest of $uri could not be made"
    else
      log_warn "$uri could not be fetched by $way"
    fi
  done
  rm -f "$file" "$file.coming" "$file.sha256"
  return "$status"
}
