# shellcheck shell=bash disable=SC2154  # node_folder is nodes.sh's
# The work of the phases on the instance, one function each, and the timing of them.
# Reads the CHRONOS_* variables of the user data; a function that fails has set `problem`.
[[ -n ${_CHRONOS_PHASES:-} ]] && return 0
readonly _CHRONOS_PHASES=1

_phases_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=run_record.sh
source "$_phases_lib_dir/run_record.sh"
# shellcheck source=behind.sh
source "$_phases_lib_dir/behind.sh"
# shellcheck source=environment_image.sh
source "$_phases_lib_dir/environment_image.sh"
# shellcheck source=scratch_disk.sh
source "$_phases_lib_dir/scratch_disk.sh"
# shellcheck source=prefetch.sh
source "$_phases_lib_dir/prefetch.sh"
# shellcheck source=nodes.sh
source "$_phases_lib_dir/nodes.sh"

phase_times='[]'
problem=''
setup_status=0 # of begin_fetches
child_pid=''
checkpoint_sync_pid=''

# Where things lie on the instance.
home="${CHRONOS_ROOT:-}/opt/chronos"
data="${CHRONOS_ROOT:-}/data"
start_model="$data/start-model"
venv_python="$home/venv/bin/python3"
data_sync_call=("$venv_python" -m chronos_ec2.instance.data_sync --bucket "${CHRONOS_BUCKET:-}" --prefix "$DATA_PREFIX"
  --manifest-sha256 "${CHRONOS_DATASET_SHA256:-}" --into "$data/training-data")
# Our package comes from the scripts, everything else from the training environment alone.
export PYTHONPATH="$home/scripts" PYTHONNOUSERSITE=1

# Says what went wrong, for run.json and the log. <message…>
fail() {
  problem="$*"
  log_error "$problem"
  return "$EXIT_FAILED"
}

# Runs a program so that a signal is handled at once: in the background, waited for. <command…>
run_waiting() {
  local status=0
  "$@" &
  child_pid=$!
  wait "$child_pid" || status=$?
  child_pid=''
  return "$status"
}

# Ends the program that `run_waiting` waits for, with a grace. <seconds>
stop_child() {
  local waited=0
  signal_child TERM "$child_pid" || return 0
  while child_runs "$child_pid" && ((waited < $1 * 5)); do
    sleep 0.2
    waited=$((waited + 1))
  done
  signal_child KILL "$child_pid" || true
}

# Appends a phase to the timings. <name> <start, epoch seconds with fraction> <ok|failed>
record_phase() {
  local end=$EPOCHREALTIME
  # shellcheck disable=SC2016  # a jq program
  phase_times=$(jq -c --arg name "$1" --argjson start "${2/,/.}" --argjson stop "${end/,/.}" --arg outcome "$3" '
    def iso: floor | todateiso8601;
    . + [{name: $name, started_at: ($start | iso), ended_at: ($stop | iso),
          seconds: (($stop - $start) * 1000 | round / 1000), outcome: $outcome}]' <<<"$phase_times")
}

# Makes the folders, and begins to fetch what a run needs: the bytes come behind the first checks and moves of the state.
begin_fetches() {
  mkdir -p "$home/venv" "$data" || return $?
  write_behind
  use_scratch_disk "$data"
  mkdir -p "$data/training-data" "$data/output/logs" "$data/tmp" || return $?
  begin config fetch_config
  begin_environment "$data/environment" || return $?
  begin_prefetch "$data/training-data"
}

phase_system_setup() {
  ((setup_status == 0)) || fail "the folders for the run could not be made; see the log" || return "$setup_status"
  log_info "kernel $(uname -r), $(nproc) cores, $(df -Pk "$data" | awk 'NR == 2 {printf "%.0f", $4 / 1048576}') GiB free"
}

require_instance_tools() {
  local tool
  for tool in aws jq curl tar gzip sha256sum awk timeout python3; do
    command -v "$tool" >/dev/null || fail "the AMI lacks $tool" || return $?
  done
  python3 -I -c 'import sys, hashlib, concurrent.futures; sys.exit(sys.version_info < (3, 7))' >/dev/null 2>&1 \
    || fail "the AMI's python3, which checks the environment before there is another, is not 3.7 or newer" || return $?
  # GNU's own, which other systems' tools of these names do not know.
  _require_answer stat -c %s / || return $?
  _require_answer date -d @0 +%s || return $?
  _require_answer find / -maxdepth 0 -printf %b || return $?
  _require_answer dd if=/dev/null of=/dev/null bs=1M iflag=skip_bytes,count_bytes skip=0 count=0 status=none
}

# <command…>
_require_answer() { "$@" >/dev/null 2>&1 || fail "the AMI lacks a $1 that knows: $*"; }

phase_venv_download() {
  bring_environment "$home/venv" "$data/venv" || return $?
  "$venv_python" -c 'import sys; print("Python", sys.version.split()[0], "in", sys.prefix, file=sys.stderr)' \
    || fail "the training environment's Python does not run on this AMI (glibc $(getconf GNU_LIBC_VERSION 2>/dev/null || true))" \
    || return $?
  begin_python_parts
}

# Begins all that waits for the training environment alone, behind the next moves of the state.
begin_python_parts() {
  begin preflight check_machine
  begin_data_sync "${data_sync_call[@]}"
  if [[ -n ${CHRONOS_START_MODEL:-} ]]; then begin start_model fetch_start_model; fi
  if [[ -n ${CHRONOS_RESUME_FROM:-} ]]; then begin checkpoint fetch_checkpoint; fi
}

fetch_start_model() {
  run_waiting "$venv_python" -m chronos_ec2.instance.model_fetch --model-id "$CHRONOS_START_MODEL" --into "$start_model"
}

check_machine() {
  run_waiting "$venv_python" "$home/scripts/preflight_check.py" --accelerator "$CHRONOS_ACCELERATOR" \
    --min-free-disk-gb "$CHRONOS_MIN_FREE_DISK_GB" --path "$data" --json >"$data/preflight.json"
}

phase_gpu_preflight() {
  local report="$data/preflight.json" status=0
  finish preflight || status=$?
  jq -r '.checks[] | "preflight: \(if .ok then "ok  " else "FAIL" end) \(.name): \(.detail)\(if .ok then "" else " -> \(.remedy)" end)"' \
    "$report" >&2 || log_warn "preflight left no report"
  note_environment_used "$report"
  begin preflight_report put_run_file "$report" preflight.json application/json
  if ((status != 0)); then
    finish_preflight_report
    fail "preflight: $(jq -er '[.checks[] | select(.ok | not) | "\(.name): \(.detail)"] | join("; ")' "$report" 2>/dev/null || echo "exit $status")"
  fi
}

finish_preflight_report() { finish preflight_report || log_warn "preflight.json could not be uploaded"; }

_config_uri() { printf 's3://%s/%s/%s/config.yaml\n' "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID"; }

# The run's config names the command that is run, so it is the launch's to the byte.
# Returns 0; EXIT_NOT_UPLOADED when it is not the launch's; else it could not be fetched.
fetch_config() {
  local digest
  fetch_object "$(_config_uri)" "$data/config.yaml" || return 1
  note_download "$data/config.yaml"
  digest=$(sha256_of_input <"$data/config.yaml") || return 1
  if [[ $digest != "$CHRONOS_CONFIG_SHA256" ]]; then
    rm -f "$data/config.yaml"
    return "$EXIT_NOT_UPLOADED"
  fi
}

finish_config() {
  local status=0
  finish_fetch config fetch_config || status=$?
  case $status in
    0) ;;
    "$EXIT_NOT_UPLOADED")
      fail "$(_config_uri) is not what this run was launched with (its sha256 is another) and was not used:" \
        "somebody has written over it; see who may write to the bucket, then launch again"
      ;;
    *) fail "the run's config.yaml could not be downloaded" ;;
  esac
}

# Waits for all that a training begins with.
phase_data_sync() {
  finish_config || return $?
  finish_data_sync "${data_sync_call[@]}" || fail "the training data could not be fetched; see the log" || return $?
  if [[ -n ${CHRONOS_START_MODEL:-} ]]; then
    finish_fetch start_model fetch_start_model || fail "the start model $CHRONOS_START_MODEL could not be fetched or is none; see the log" || return $?
  fi
  if [[ -n ${CHRONOS_RESUME_FROM:-} ]]; then
    finish_fetch checkpoint fetch_checkpoint \
      || fail "run $CHRONOS_RESUME_FROM has no checkpoint that could be fetched and verified; see the log" || return $?
    log_info "going on from step $(<"$data/resumed-step") of run $CHRONOS_RESUME_FROM"
  fi
  finish_preflight_report
}

# Fetches the checkpoint that this run goes on from, and has the record name its step.
fetch_checkpoint() {
  run_waiting "$venv_python" -m chronos_ec2.instance.checkpoint_restore --bucket "$CHRONOS_BUCKET" \
    --prefix "$CHRONOS_ENV/$CHRONOS_RESUME_FROM/" --into "$data/output/checkpoints" >"$data/resumed-step" || return $?
  if ! leads; then return 0; fi
  update_run_record "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" "{\"resumed_from_step\": $(<"$data/resumed-step")}" \
    || log_warn "run.json does not name the step yet"
}

# Begins to upload checkpoints beside the training. It is no companion: the last upload must not wait for it.
start_checkpoint_sync() {
  "$venv_python" -m chronos_ec2.instance.checkpoint_sync --bucket "$CHRONOS_BUCKET" \
    --prefix "$CHRONOS_ENV/$CHRONOS_RUN_ID/" --from "$data/output" &
  checkpoint_sync_pid=$!
}

# What it leaves half done has no manifest, and phase_results_sync does it again.
stop_checkpoint_sync() {
  end_children "$checkpoint_sync_pid"
  checkpoint_sync_pid=''
}

phase_training() {
  local status=0
  local -a model=() flags
  if [[ -n ${CHRONOS_START_MODEL:-} ]]; then model=(--model "$start_model"); fi
  mapfile -t flags < <(wrapper_flags)
  if leads; then start_checkpoint_sync; fi
  # Scratch lies with the data. The command of `trainer: command` finds the training environment's python first.
  run_waiting env TMPDIR="$data/tmp" PATH="$home/venv/bin:$PATH" "$venv_python" "$home/scripts/training_wrapper.py" --config "$data/config.yaml" --data "$data/training-data" \
    --output "$data/output" "${flags[@]}" \
    --grace-seconds "$(((CHRONOS_KILL_GRACE_SECONDS + 2) / 3))" "${model[@]}" || status=$?
  stop_checkpoint_sync
  forget_state # the wrapper has written it since
  if ((status != 0)); then
    problem=$(jq -r '.error // empty' "$data/output/training.json" 2>/dev/null) || true
    fail "${problem:-training ended with exit code $status}" || return "$status"
  fi
}

# [seconds that it may take]
phase_results_sync() {
  local -a bound=()
  if ! leads; then
    save_node_logs
    return 0
  fi
  if (($# > 0)); then bound=(timeout "$1"); fi
  run_waiting "${bound[@]}" "$venv_python" -m chronos_ec2.instance.results_sync --bucket "$CHRONOS_BUCKET" \
    --prefix "$CHRONOS_ENV/$CHRONOS_RUN_ID/" --from "$data/output" || fail "the results could not be uploaded; see the log"
}

# Puts one file under the run's prefix. <file> <name> <content type>
put_run_file() {
  note_requests P
  timeout 120 aws s3api put-object --bucket "$CHRONOS_BUCKET" --key "$CHRONOS_ENV/$CHRONOS_RUN_ID/$node_folder$2" --body "$1" \
    --content-type "$3" >/dev/null
}
