# shellcheck shell=bash
# The watch for a run that has stopped moving. A heartbeat says that the machine lives, not that it gets on: a
# trainer that hangs, or a download that never ends, keeps its heartbeat until the deadline.
[[ -n ${_CHRONOS_STALL:-} ]] && return 0
readonly _CHRONOS_STALL=1

_stall_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=companions.sh
source "$_stall_lib_dir/companions.sh"

# Waits until nothing has been written to some folders for a while, then calls a function once, with the minutes.
# Time is counted in looks: a clock that jumps is no stall.
# <function> <minutes> <seconds between looks> <file for its own use> <folder…>
watch_for_stall() {
  local tell=$1 minutes=$2 pause=$3 marker=$4 quiet=0
  shift 4
  trap 'exit 0' TERM
  : >"$marker"
  while ((quiet < minutes * 60)); do
    _pause "$pause"
    : >"$marker.next"
    # Unpacked files carry old dates; when their entry was last changed tells. Deeper down, their folders show it. The sampler
    # goes on writing beside a trainer that hangs; what a trainer says is in its log as well.
    if [[ -n $(find "$@" -maxdepth 3 ! -name metrics.jsonl ! -name '.tmp*' -cnewer "$marker" -print -quit 2>/dev/null) ]]; then
      quiet=0
    else
      quiet=$((quiet + pause))
    fi
    mv -f "$marker.next" "$marker"
  done
  "$tell" "$minutes"
}
