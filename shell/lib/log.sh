# shellcheck shell=bash
# Talk on stderr: `2025-01-15T14:30:22Z INFO  message`. stdout is for data alone.
[[ -n ${_CHRONOS_LOG:-} ]] && return 0
readonly _CHRONOS_LOG=1

# <level> <message…>
_log() {
  local level=$1 TZ=UTC
  shift
  # Some of it others wrote: no byte steers the terminal, or makes a line of its own.
  printf '%(%Y-%m-%dT%H:%M:%SZ)T %-5s %s\n' -1 "$level" "${*//[[:cntrl:]]/ }" >&2 || true # nobody may be listening any more
}

log_info() { _log INFO "$@"; }
log_warn() { _log WARN "$@"; }
log_error() { _log ERROR "$@"; }

# Prints the file's own header comment, which is its help. <file>
print_header() {
  local line
  while IFS= read -r line; do
    case $line in
      '#!'*) ;;
      '#'*)
        line=${line#'#'}
        printf '%s\n' "${line# }"
        ;;
      *) return 0 ;;
    esac
  done <"$1"
}

# UTC now, as the state file writes it.
utc_now() {
  local TZ=UTC
  printf '%(%Y-%m-%dT%H:%M:%SZ)T\n' -1
}
