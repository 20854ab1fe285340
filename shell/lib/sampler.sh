# shellcheck shell=bash disable=SC2154  # venv_python and data are phases.sh's
# What measures the machine beside the training (instance/sampler), and what becomes of GPUs that do nothing.
# Reads the CHRONOS_* variables of the user data, and bootstrap.sh's log_file.
[[ -n ${_CHRONOS_SAMPLER:-} ]] && return 0
readonly _CHRONOS_SAMPLER=1

_sampler_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=children.sh
source "$_sampler_lib_dir/children.sh"
# shellcheck source=companions.sh
source "$_sampler_lib_dir/companions.sh"
# shellcheck source=phases.sh
source "$_sampler_lib_dir/phases.sh"
# shellcheck source=run_notices.sh
source "$_sampler_lib_dir/run_notices.sh"

readonly SAMPLER_LOOKS=50 # each a tenth of a second
sampler_pid=''

# Tells the sampler which phase the run is in. <phase> <folder for facts>
note_phase() { printf '%s\n' "$1" >"$2/phase" || true; }

# Begins to sample, once there is a training environment. <folder for facts>
start_sampler() {
  "$venv_python" -m chronos_ec2.instance.sampler --output "$data/output" --bucket "$CHRONOS_BUCKET" \
    --prefix "$CHRONOS_ENV/$CHRONOS_RUN_ID/" --sample-seconds "${CHRONOS_SAMPLE_SECONDS:-5}" \
    --upload-seconds "$CHRONOS_HEARTBEAT_SECONDS" --phase-file "$1/phase" --idle-file "$1/idle-gpu" \
    --idle-minutes "${CHRONOS_IDLE_GPU_MINUTES:-0}" --kmsg "${CHRONOS_ROOT:-}/dev/kmsg" </dev/null >/dev/null &
  sampler_pid=$!
}

# Ends the sampler: what it writes to is about to be uploaded whole. It ends at once, unless a GPU's driver holds it in a call
# that does not come back; then not even KILL does before the driver lets go, and nobody waits for that.
stop_sampler() {
  local look
  signal_child TERM "$sampler_pid" || return 0
  for ((look = 0; look < SAMPLER_LOOKS; look++)); do
    child_runs "$sampler_pid" || break
    sleep 0.1 # a companion's pause would take TERM away from bootstrap
  done
  if signal_child KILL "$sampler_pid"; then
    log_warn "the sampler did not end; going on without it"
  else
    wait "$sampler_pid" 2>/dev/null || true
  fi
  sampler_pid=''
}

# Says once that no GPU does anything; with `end` the run ends for it, as for a kill: the reason goes into a file first.
# <bootstrap's pid> <reason file> <file that the sampler writes the minutes to> <tell|end> <seconds between looks>
watch_for_idle_gpu() {
  local minutes told=false
  trap 'exit 0' TERM
  while true; do
    _pause "$5"
    if [[ ! -s $3 ]]; then
      told=false
    elif [[ $told == false ]]; then
      told=true minutes=$(<"$3")
      if [[ $4 == end ]]; then
        log_error "no GPU did anything for $minutes minutes of training: ending the run (idle_gpu_action: end)"
        give_reason "$2" idle_gpu
        kill -TERM "$1" 2>/dev/null || true
        return 0
      fi
      log_warn "no GPU did anything for $minutes minutes of training, and is paid for; invoke kill ends the run"
      tell idle "$(jq -cn --argjson minutes "$minutes" '{idle_minutes: $minutes}')"
    fi
  done
}

# Prints why a run that was ended for its idle GPUs ended. <file that the sampler writes the minutes to>
explain_idle_gpu() {
  printf 'no GPU did anything for %s minutes of training (idle_gpu_minutes; idle_gpu_action: end); see the log for what it waited for\n' \
    "$(cat "$1" 2>/dev/null || echo '?')"
}
