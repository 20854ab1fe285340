# shellcheck shell=bash
# This shell's own children, by process id. Bash reaps a child as soon as it ends, and its id is any process's from then on:
# only while it is among the running jobs is it the child's. Nothing else in these scripts signals a child.
[[ -n ${_CHRONOS_CHILDREN:-} ]] && return 0
readonly _CHRONOS_CHILDREN=1

# Whether a child of this very shell runs; a subshell does not see those of the shell that it comes from. <pid>
child_runs() {
  local running
  running=$(jobs -pr)
  [[ -n $1 && $'\n'$running$'\n' == *$'\n'"$1"$'\n'* ]]
}

# Signals a child that still runs. <signal> <pid>
signal_child() { child_runs "$2" && kill "-$1" "$2" 2>/dev/null; }

# Ends children, and waits for them: all at once, as the end of one may be what another waits for. <pid…>
end_children() {
  local pid
  local -a ending=()
  for pid in "$@"; do
    if signal_child TERM "$pid"; then ending+=("$pid"); fi
  done
  # One that has ended by itself is not waited for: Bash could wait for another child instead, the one that keeps the log.
  for pid in "${ending[@]}"; do wait "$pid" 2>/dev/null || true; done
}

# Waits for a child that still runs. <pid>
wait_for_child() { if child_runs "$1"; then wait "$1" || true; fi; }

# Whether the child that was begun last has none of the names that there are: a trap may come between a child's start and the variable
# that is to name it, and the child would run on. <pids that have names…>
last_child_has_no_name() { [[ " $* " != *" ${!:-} "* ]]; }
