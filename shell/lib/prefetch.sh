# shellcheck shell=bash
# The training data on the instance: their bytes come behind the environment's, the checked sync beside preflight.
# Reads the CHRONOS_* variables of the user data, and the places of phases.sh.
[[ -n ${_CHRONOS_PREFETCH:-} ]] && return 0
readonly _CHRONOS_PREFETCH=1

_prefetch_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=bulk_copy.sh
source "$_prefetch_lib_dir/bulk_copy.sh"
# shellcheck source=behind.sh
source "$_prefetch_lib_dir/behind.sh"
# shellcheck source=environment_image.sh
source "$_prefetch_lib_dir/environment_image.sh"

# Files that come at once.
readonly PREFETCH_WORKERS=32
readonly DATA_PREFIX=cached-datasets/training-data/
prefetch_file='' # there while the prefetch goes on

# Begins to fetch the files that the data's manifest names, without checking them: the sync does that, and fetches again
# what is not right. It needs no Python, so it begins when the environment's bytes have come: everything else waits for
# those, so that nothing shares the network with them. <folder>
begin_prefetch() {
  local -a s5cmd_call=()
  _find_s5cmd || return 0
  prefetch_file="$1.coming"
  : >"$prefetch_file" || return 0
  # Where cores are short the environment's digest and preflight come first.
  begin prefetch _prefetch "$1" nice -n 10 "${s5cmd_call[@]}" --numworkers "$PREFETCH_WORKERS"
}

# <folder> <s5cmd and its options…>
_prefetch() {
  local into=$1 work count
  shift
  trap 'rm -f "$prefetch_file"' EXIT
  trap 'signal_child TERM "${!:-}" || true; exit "$EXIT_TERMINATED"' TERM
  while environment_is_coming; do
    sleep 0.1 &
    wait "$!"
  done
  work=$(mktemp -d)
  "$@" cat --raw "s3://$CHRONOS_BUCKET/${DATA_PREFIX}MANIFEST.json" >"$work/manifest" 2>/dev/null &
  if wait "$!" && [[ $(sha256_of_input <"$work/manifest") == "$CHRONOS_DATASET_SHA256" ]]; then
    # Names that a line of s5cmd's could misread are left to the sync.
    jq -r '.files[].name | select(test("^[A-Za-z0-9_-][A-Za-z0-9._-]*$"))' "$work/manifest" 2>/dev/null \
      | LC_ALL=C sort >"$work/names" || : >"$work/names"
    count=$(wc -l <"$work/names")
    # A listing is of level info.
    "$@" --log info ls "s3://$CHRONOS_BUCKET/$DATA_PREFIX*" >"$work/listing" 2>/dev/null &
    wait "$!" || : >"$work/listing"
    _write_copies "$work" "$into" "$count"
    "$@" run "$work/copies" >/dev/null 2>&1 &
    if wait "$!"; then
      log_info "$count files of training data have come behind the environment"
    else
      log_warn "not all training data came behind the environment; the sync fetches the rest"
    fi
  fi
  rm -rf "${work:?}"
}

# Writes what s5cmd has to do. A file that is named costs a request for its size and one for itself, one that was listed costs
# one: so the listing is taken where it holds the manifest's files and no others. A file comes in as many parts at once as
# there are workers for it: one connection to S3 carries less than a tenth of the network. <folder of its own> <folder> <files>
_write_copies() {
  local from="s3://$CHRONOS_BUCKET/$DATA_PREFIX" parts=$((PREFETCH_WORKERS / ($3 > 0 ? $3 : 1))) listed
  parts=$((parts < 1 ? 1 : parts > 8 ? 8 : parts))
  listed=$(awk 'NF != 4 {print "?"} $4 != "MANIFEST.json" {print $4}' "$1/listing" | LC_ALL=C sort) || listed='?'
  if (($3 > 0)) && [[ $listed == "$(<"$1/names")" ]]; then
    note_requests G "$(($3 + 1))"
    note_requests P "$(($3 / 1000 + 1))"
    # What may have come since it was listed is not taken into other folders.
    printf 'cp --concurrency %d --exclude "*/*" --exclude ".*" --exclude MANIFEST.json "%s*" "%s/"\n' "$parts" "$from" "$2"
  else
    note_requests G "$((2 * $3 + 1))"
    sed "s|.*|cp --raw --concurrency $parts \"$from&\" \"$2/&\"|" "$1/names"
  fi >"$1/copies"
}

# Begins the checked sync, behind whatever follows. <command…>
begin_data_sync() { begin data_sync _after_prefetch "$@"; }

# Two writers of one file would break it: the sync begins when the prefetch has ended. <command…>
_after_prefetch() {
  while [[ -n $prefetch_file && -e $prefetch_file ]]; do run_waiting sleep 0.1; done
  run_waiting "$@"
}

# Waits for the checked sync; its status. <command…>
finish_data_sync() {
  if [[ -n ${behind[prefetch]:-} ]]; then
    finish prefetch || true
    rm -f "$prefetch_file" # one that was killed has left it
  fi
  finish_fetch data_sync run_waiting "$@"
}
