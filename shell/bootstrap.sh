#!/usr/bin/env bash
# Trains on the rented instance, from first look to power-off. User data starts it, once, on first boot.
#
# Usage: bootstrap.sh [--dry-run] [--help]
#
#   --dry-run   print the phases and what each would do; change nothing
#
# Phases, in order: initialization, system_setup, venv_download, gpu_preflight, data_sync, training, results_sync,
# cleanup. Each writes the state file before it starts; what it waits for has mostly begun behind those before it
# (lib/behind.sh). Whatever happens, cleanup finishes run.json, uploads the log, frees the environment and powers the machine off.
#
# Environment, from user data: CHRONOS_RUN_ID, CHRONOS_ENV, CHRONOS_BUCKET, CHRONOS_ACCELERATOR (cuda|cpu),
#   CHRONOS_ENVIRONMENT_ARCHIVE and _PIECES_SHA256, CHRONOS_CONFIG_SHA256, CHRONOS_DATASET_SHA256, CHRONOS_DEADLINE_MINUTES,
#   CHRONOS_MIN_FREE_DISK_GB, CHRONOS_HEARTBEAT_SECONDS, CHRONOS_LOG_UPLOAD_SECONDS, CHRONOS_KILL_GRACE_SECONDS,
#   CHRONOS_KEEP_ON_FAILURE_MINUTES, CHRONOS_ROOT (like DESTDIR; empty on EC2), CHRONOS_TOPIC_ARN (empty: no notices),
#   CHRONOS_NODES (machines that train together; this one's number is EC2's),
#   CHRONOS_STALE_MINUTES, CHRONOS_SAMPLE_SECONDS, CHRONOS_IDLE_GPU_MINUTES (0: idle GPUs are not looked for) and
#   CHRONOS_IDLE_GPU_ACTION (tell|end), CHRONOS_RESUME_FROM (a run whose newest checkpoint this one goes on from; empty: none).
# Exit codes: 0 trained; 2 usage; 25 this is not the run's EC2 instance; else that of the phase that failed.
# Runs on: the instance. It refuses to run, and cannot power off, anywhere else.
if [ -z "${BASH_VERSINFO:-}" ] || [ "${BASH_VERSINFO[0]}${BASH_VERSINFO[1]}" -lt 50 ]; then # macOS comes with 3.2; other shells end here too
  echo "${0##*/}: Bash 5.0 or newer is needed, this is ${BASH_VERSION:-another shell}" >&2
  exit 24
fi
set -Eeuo pipefail
shopt -s inherit_errexit
unset CDPATH # which would lead `cd` elsewhere, and have it print

script_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=lib/run_record.sh
source "$script_dir/lib/run_record.sh"
# shellcheck source=lib/instance.sh
source "$script_dir/lib/instance.sh"
# shellcheck source=lib/companions.sh
source "$script_dir/lib/companions.sh"
# shellcheck source=lib/phases.sh
source "$script_dir/lib/phases.sh"
# shellcheck source=lib/nodes.sh
source "$script_dir/lib/nodes.sh"
# shellcheck source=lib/ending.sh
source "$script_dir/lib/ending.sh"
# shellcheck source=lib/stall.sh
source "$script_dir/lib/stall.sh"
# shellcheck source=lib/run_notices.sh
source "$script_dir/lib/run_notices.sh"
# shellcheck source=lib/timeline.sh
source "$script_dir/lib/timeline.sh"
# shellcheck source=lib/progress.sh
source "$script_dir/lib/progress.sh"
# shellcheck source=lib/sampler.sh
source "$script_dir/lib/sampler.sh"

# Tools that the AMI may lack have come with the scripts; the AMI's own are found first. S3 knows no mode bits.
if [[ -d $script_dir/bin ]]; then chmod -R a+rx "$script_dir/bin"; fi
PATH="$PATH:$script_dir/bin"

readonly CLEANUP_MINUTES=15
phase=initialization
phase_started=$EPOCHREALTIME
companion_pids=() start_notice_pid=''
log_file='' stop_reason_file='' notice_file=''
ballast='' # space that is let go at the end: a full disk must not keep the run's end from being written

parse_arguments() {
  while (($# > 0)); do
    case $1 in
      --dry-run)
        print_phases
        exit 0
        ;;
      --help | -h)
        print_header "${BASH_SOURCE[0]}"
        exit 0
        ;;
      *)
        log_error "unknown argument '$1'; see --help"
        exit "$EXIT_USAGE"
        ;;
    esac
  done
}

print_phases() {
  cat <<'PHASES'
initialization  confirm by IMDSv2 that this is the run's instance; environment, config and data begin to come; start the log upload and the watch for a kill
system_setup    look at folders and disk
venv_download   wait for the training environment, mount or unpack it; preflight and the data's check begin
gpu_preflight   wait for preflight: driver, CUDA, GPUs, environment, disk
data_sync       wait for the checked config and training data, start model and checkpoint
training        run the training wrapper
results_sync    upload model, metrics, forecasts
cleanup         finish run.json, upload the log, delete the state file, terminate, power off
PHASES
}

require_variables() {
  local name
  for name in CHRONOS_RUN_ID CHRONOS_ENV CHRONOS_BUCKET CHRONOS_DEADLINE CHRONOS_DEADLINE_MINUTES CHRONOS_ACCELERATOR \
    CHRONOS_ENVIRONMENT_ARCHIVE CHRONOS_ENVIRONMENT_PIECES_SHA256 CHRONOS_CONFIG_SHA256 CHRONOS_DATASET_SHA256 CHRONOS_MIN_FREE_DISK_GB \
    CHRONOS_HEARTBEAT_SECONDS CHRONOS_LOG_UPLOAD_SECONDS CHRONOS_KILL_GRACE_SECONDS CHRONOS_KEEP_ON_FAILURE_MINUTES; do
    if [[ -z ${!name:-} ]]; then
      log_error "$name is not set; bootstrap.sh is started by the user data that launch_training.sh renders"
      return "$EXIT_USAGE"
    fi
    case $name in
      *_GB | *_SECONDS | *_MINUTES)
        if [[ ${!name} == *[!0-9]* ]]; then
          log_error "$name is not a whole number: '${!name}'"
          return "$EXIT_USAGE"
        fi
        ;;
    esac
  done
}

# Copies its input to the log file and to the console. A tee that the kernel has killed is begun again, on the same pipe: were
# nobody to read that, the next word would end whoever says it. A console that has gone (-p) ends nothing either.
keep_log() {
  until tee -p -a "$log_file" || (($? < 128)); do
    log_warn "the log's writer was killed, and is begun again; words may be missing here"
  done
}

# Sends everything printed from here on to the log file and to the console as well.
start_log() {
  local folder="${CHRONOS_ROOT:-}/var/log/chronos"
  mkdir -p "$folder"
  log_file="$folder/bootstrap.log"
  stop_reason_file="$folder/stop-reason"
  notice_file="$folder/machine-goes.json"
  # What cloud-init and the user data have said until here; the console has it already.
  sed 's/^/cloud-init| /' "${CHRONOS_ROOT:-}/var/log/cloud-init-output.log" 2>/dev/null >>"$log_file" || true
  ballast="$folder/ballast"
  head -c 4194304 /dev/zero >"$ballast" || true
  exec > >(keep_log 2>>"$log_file") 2>&1
  export CHRONOS_S3_REQUESTS="$folder/s3-requests"
  # User data has listed the scripts and fetched each of them.
  note_requests P
  note_requests G "$(find "$script_dir" -type f | wc -l)"
}

start_companions() {
  upload_log_continuously "$log_file" "$CHRONOS_BUCKET" "$CHRONOS_ENV/$CHRONOS_RUN_ID/$(log_name)" \
    "$CHRONOS_LOG_UPLOAD_SECONDS" &
  companion_pids+=($!)
  if leads; then
    watch_for_kill "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" $$ "$stop_reason_file" "$CHRONOS_HEARTBEAT_SECONDS" &
  else
    watch_for_end $$ "$stop_reason_file" "$CHRONOS_HEARTBEAT_SECONDS" &
  fi
  companion_pids+=($!)
  if may_be_interrupted; then
    watch_for_interruption $$ "$stop_reason_file" "$notice_file" "$data/output/checkpoints" "$INTERRUPTION_LOOK_SECONDS" &
    companion_pids+=($!)
  fi
  watch_for_deadline $$ "$stop_reason_file" "$notice_file" &
  companion_pids+=($!)
  if [[ $CHRONOS_ACCELERATOR == cuda ]]; then
    watch_for_idle_gpu $$ "$stop_reason_file" "${log_file%/*}/idle-gpu" "${CHRONOS_IDLE_GPU_ACTION:-tell}" 5 &
    companion_pids+=($!)
  fi
  if leads; then
    tell_fetched "${log_file%/*}/phase" "$CHRONOS_LOG_UPLOAD_SECONDS" &
    companion_pids+=($!)
    watch_for_stall tell_stall "${CHRONOS_STALE_MINUTES:-15}" 60 "${log_file%/*}/moved" "$data" "$home" &
    companion_pids+=($!)
  fi
}

# Ends the companions, after the call each may be in the middle of: an upload that ended later than the last one
# would bring an old log back.
stop_companions() {
  end_children "${companion_pids[@]}"
  companion_pids=()
}

# Writes the state, does the phase's work, notes its time. <phase> <status> <function>
run_phase() {
  phase=$1
  phase_started=$EPOCHREALTIME
  log_info "phase $phase"
  note_phase "$phase" "${log_file%/*}"
  # shellcheck disable=SC2016  # a jq program
  move_state "$2" "$phase" "$(jq -cn --arg id "$INSTANCE_ID" --argjson timeline "$timeline" \
    --argjson phases "$(phases_so_far "$phase" "$phase_started")" \
    '{instance_id: $id, control: {timeline: $timeline, phases: $phases}}')"
  "$3"
  record_phase "$phase" "$phase_started" ok
  phase_reached "$phase"
}

# Writes the state, which is the first node's to write. <status> <step> [json object of further changes]
move_state() { ! leads || move_run "$@"; }

# <status> <step> [json object of further changes]
move_run() {
  transition_state "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" "$@"
}

phase_initialization() { log_info "deadline $CHRONOS_DEADLINE"; }

# The one handler of every end. It never fails, and ends in power-off.
on_exit() {
  local status=$? outcome error='' report_pid
  trap - EXIT
  trap '' TERM INT
  set +eu
  # shellcheck disable=SC2154  # behind is behind.sh's
  if [[ -z $child_pid ]] && last_child_has_no_name "$start_notice_pid" "$checkpoint_sync_pid" "$sampler_pid" "${companion_pids[@]}" "${behind[@]}"; then
    child_pid=${!:-}
  fi
  # A clean-up that hangs must not keep the machine: this replaces the longer deadline.
  power_off "$(minutes_within_deadline "$((CLEANUP_MINUTES + CHRONOS_KEEP_ON_FAILURE_MINUTES))")"
  stop_work
  rm -f "$ballast"
  # A disk that has filled up again leaves memory for the small files by which the end is written.
  if [[ -w ${CHRONOS_ROOT:-}/dev/shm ]]; then export TMPDIR="${CHRONOS_ROOT:-}/dev/shm"; fi
  if ((status != 0)); then note_stop_reason; fi
  if ! leads; then
    end_node "$status"
    exit "$status"
  fi
  outcome=$(outcome_of "$status")
  if [[ $outcome != succeeded ]]; then rescue "$status"; fi
  if [[ $outcome == failed ]]; then keep_if_asked; fi
  phase_started=$EPOCHREALTIME
  log_info "phase cleanup: outcome $outcome"
  move_state cleanup cleanup
  record_phase cleanup "$phase_started" ok
  finish_records "$status" "$outcome" "$error"
  report_run "$data/report-problem" &
  report_pid=$!
  wait_for_child "$start_notice_pid"
  tell_end "$outcome" "$phase" "$error" "$INSTANCE_ID"
  flush_log
  wait "$report_pid" || log_warn "report.html is missing (invoke report makes it): $(tail -n 1 "$data/report-problem" 2>/dev/null || true)"
  delete_state "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" || log_warn "the state file could not be deleted; the next launch takes the claim over"
  end_other_nodes
  timeout 60 aws ec2 terminate-instances --instance-ids "$INSTANCE_ID" >/dev/null || log_warn "terminate-instances failed; powering off does it"
  power_off
  exit "$status"
}

main() {
  local -a s5cmd_call=()
  parse_arguments "$@"
  require_variables
  # A user's or an AMI's own formats would break every answer that is read here.
  export AWS_DEFAULT_OUTPUT=json AWS_PAGER='' AWS_CLI_ERROR_FORMAT=legacy AWS_CLI_AUTO_PROMPT=off
  export AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=${AWS_MAX_ATTEMPTS:-5}
  confirm_instance "$CHRONOS_RUN_ID"
  find_place
  trap on_exit EXIT
  trap 'exit "$EXIT_TERMINATED"' TERM
  trap 'exit "$EXIT_INTERRUPTED"' INT
  start_log
  begin_timeline
  log_info "run $CHRONOS_RUN_ID of $CHRONOS_ENV on $INSTANCE_ID"
  require_instance_tools
  if _find_s5cmd; then stage_by "${s5cmd_call[@]}"; fi
  begin_fetches || setup_status=$? # system_setup fails with it
  require_conditional_writes
  start_companions
  be_patient
  run_phase initialization initialization phase_initialization
  run_phase system_setup initialization phase_system_setup
  run_phase venv_download initialization phase_venv_download
  start_sampler "${log_file%/*}"
  run_phase gpu_preflight initialization phase_gpu_preflight
  run_phase data_sync data_sync phase_data_sync
  if many_nodes; then meet_nodes; fi
  if leads; then
    tell start &
    start_notice_pid=$!
  fi
  run_phase training training phase_training
  stop_sampler
  run_phase results_sync results_sync phase_results_sync
}

main "$@"
