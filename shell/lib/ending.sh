# shellcheck shell=bash disable=SC2154  # phase, phase_started, stop_reason_file and the like are bootstrap.sh's
# How a run ends on the instance: why, what is saved of it, and what its record says.
# Reads bootstrap.sh's variables and the CHRONOS_* variables of the user data. Nothing here may fail the clean-up.
[[ -n ${_CHRONOS_ENDING:-} ]] && return 0
readonly _CHRONOS_ENDING=1

_ending_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=companions.sh
source "$_ending_lib_dir/companions.sh"
# shellcheck source=interruption.sh
source "$_ending_lib_dir/interruption.sh"
# shellcheck source=deadline.sh
source "$_ending_lib_dir/deadline.sh"
# shellcheck source=phases.sh
source "$_ending_lib_dir/phases.sh"
# shellcheck source=timeline.sh
source "$_ending_lib_dir/timeline.sh"
# shellcheck source=sampler.sh
source "$_ending_lib_dir/sampler.sh"
# shellcheck source=nodes.sh
source "$_ending_lib_dir/nodes.sh"

stop_reason() { cat "$stop_reason_file" 2>/dev/null || true; }

# A kill refuses bootstrap's next transition before the watch for it has looked: ask once more why this ends.
note_stop_reason() {
  if [[ -n $stop_reason_file && ! -s $stop_reason_file ]]; then
    reason_to_stop "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" >"$stop_reason_file"
    if many_nodes && [[ ! -s $stop_reason_file ]]; then look_for_lost_node; fi
    # An empty line: a notice, say, that comes from now on is not why this ends.
    [[ -s $stop_reason_file ]] || printf '\n' 2>/dev/null >"$stop_reason_file" || true
  fi
}

# Whether the machine goes off at a time that is known, so that what can be lost is saved first.
time_is_short() { case $(stop_reason) in interrupted | deadline) ;; *) return 1 ;; esac }

# Ends the phase's program with the time that there is. The trainer has had a third of the grace by then; what is left
# is for saving what it made.
stop_work() {
  local seconds=$(((CHRONOS_KILL_GRACE_SECONDS + 1) / 2))
  if time_is_short; then seconds=$(seconds_to_stop "$seconds" "$notice_file"); fi
  stop_child "$seconds"
  stop_sampler
  stop_background
  stop_checkpoint_sync
}

# Prints the loss that was no number, if the trainer told one: nothing goes on from such weights, whatever ended the run.
bad_loss() { _fact "$data/output/training.json" bad_loss; }

# The run's outcome from the way bootstrap ends. <exit status>
outcome_of() {
  case $(stop_reason) in
    killed) printf 'killed\n' ;;
    interrupted) if (($1 == 0)); then printf 'succeeded\n'; elif [[ -n $(bad_loss) ]]; then printf 'failed\n'; else printf 'interrupted\n'; fi ;;
    *) if (($1 == 0)); then printf 'succeeded\n'; else printf 'failed\n'; fi ;;
  esac
}

explain_end() {
  local loss
  loss=$(bad_loss)
  if time_is_short && [[ -n $loss ]]; then
    printf 'the training had failed before it was asked to end: %s\n' "$loss"
    return 0
  fi
  case $(stop_reason) in
    killed) printf '%s\n' "$KILLED_BY_OPERATOR" ;;
    interrupted) explain_interruption "$notice_file" "$phase" "$data/output" ;;
    deadline) explain_deadline "$notice_file" "$phase" "$data/output" ;;
    idle_gpu) explain_idle_gpu "${stop_reason_file%/*}/idle-gpu" ;;
    node) explain_lost_node ;;
    lost) printf 'the claim on the environment was lost to another run\n' ;;
    *) printf '%s\n' "${problem:-phase $phase ended with exit code $1; see logs/bootstrap.log}" ;;
  esac
}

# Uploads what an ended run has made so far. [seconds that it may take]
save_results() {
  if [[ $phase == training || $phase == results_sync ]]; then phase_results_sync "$@" || true; fi
}

# Marks the run failed, unless its state is not its own to change any more. <exit status> <error>
mark_failed() {
  local changes
  record_phase "$phase" "$phase_started" failed
  log_error "phase $phase failed (exit code $1): $2"
  # shellcheck disable=SC2016  # a jq program
  changes=$(jq -cn --arg error "$2" --arg id "$INSTANCE_ID" '{error_message: $error, instance_id: $id}')
  case $(stop_reason) in '' | interrupted | deadline | idle_gpu | node) move_state failed "$phase" "$changes" || true ;; esac
}

# Saves what a run that did not succeed has made, and marks it failed. <exit status>   Sets `error`.
rescue() {
  if many_nodes; then post_end "$(stop_reason)" "$problem"; fi
  if time_is_short; then
    # First what can be lost: the reason names the step that is safe.
    save_results "$(seconds_to_save "$notice_file")"
    error=$(explain_end "$1")
    mark_failed "$1" "$error"
  else
    error=$(explain_end "$1")
    mark_failed "$1" "$error"
    save_results
  fi
}

# Not to the very deadline: the record is still to be written.
keep_if_asked() {
  local minutes
  minutes=$(($(minutes_within_deadline "$((CHRONOS_KEEP_ON_FAILURE_MINUTES + 2))") - 2))
  if ((minutes > 0)) && ! time_is_short; then
    log_warn "KEPT for $minutes minutes after the failure (keep_on_failure_minutes): instance $INSTANCE_ID goes on billing; invoke kill ends it"
    run_waiting sleep "$((minutes * 60))" || true
  fi
}

# Prints what run.json says of the run's work beside its outcome. <outcome>
describe_work() {
  local interrupted=false work
  if [[ $1 == interrupted ]]; then interrupted=true; fi
  # shellcheck disable=SC2016  # a jq program
  work=$(jq -c '{metrics: ((.metrics // {}) + {baselines: .baselines})}
    + if .resume_from then {resumed_from_step: .resumed_from_step} else {} end' "$data/output/training.json" 2>/dev/null) \
    || work='{}'
  # shellcheck disable=SC2016  # a jq program
  jq -cn --argjson phases "$phase_times" --arg id "$INSTANCE_ID" --argjson work "$work" \
    --argjson checkpoints "$(checkpoint_facts "$data/output" "$interrupted")" --argjson requests "$(counted_requests | requests_of_all_nodes)" \
    --argjson timeline "$(whole_timeline "$data/output")" --arg used "$environment_used" \
    '{phases: $phases, timeline: $timeline, instance: {id: $id}}
     + (if $used == "" then {} else {environment_archive: {used: $used}} end) + $work + $checkpoints + $requests'
}

# Writes the record of the run: run.json and phase_logs.json. <exit status> <outcome> <error>
finish_records() {
  local file step='' error=''
  file=$(mktemp) || return $?
  if [[ $2 != succeeded ]]; then step=$phase error=$3; fi
  # What is left after this is to let go of the environment: the machine is off some seconds later.
  reached power_off
  # shellcheck disable=SC2016  # a jq program
  jq -n --arg run "$CHRONOS_RUN_ID" --argjson phases "$phase_times" --argjson timeline "$(whole_timeline "$data/output")" \
    '{run_id: $run, phases: $phases, timeline: $timeline}' >"$file"
  note_requests P
  timeout 60 aws s3api put-object --bucket "$CHRONOS_BUCKET" --key "logs/$CHRONOS_RUN_ID/phase_logs.json" --body "$file" \
    --content-type application/json --tagging chronos-class=log >/dev/null || log_warn "phase_logs.json could not be uploaded"
  rm -f "$file"
  finish_run_record "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" "$2" "$step" "$error" "$1" "$(describe_work "$2")" \
    || log_warn "run.json could not be finished"
}

# Makes report.html of what the run has left, and uploads it. It runs beside the last upload of the log, is given up
# after half a minute, and says what is wrong in a file, as the log has its end by then. <file for that>
report_run() {
  local folder="$data/output"
  [[ -x $venv_python && -n ${RUN_RECORD:-} ]] || return 0
  {
    mkdir -p "$folder" && printf '%s\n' "$RUN_RECORD" >"$folder/run.json"
    cp -f "$data/preflight.json" "$data/config.yaml" "$folder/"
    timeout 30 "$venv_python" -m chronos_ec2.report --run "$folder" --parts "$home/scripts/report" \
      --into "$data/report.html" && put_run_file "$data/report.html" report.html 'text/html; charset=utf-8'
  } >/dev/null 2>"$1"
}

flush_log() {
  local attempt
  stop_companions
  log_info "end of the log of run $CHRONOS_RUN_ID"
  # tee writes on its own time: wait until the line above has reached the file.
  for ((attempt = 0; attempt < 20; attempt++)); do
    if tail -n 1 "$log_file" | grep -qF "end of the log of run"; then break; fi
    sleep 0.1
  done
  upload_log "$log_file" "$CHRONOS_BUCKET" "$CHRONOS_ENV/$CHRONOS_RUN_ID/$(log_name)" \
    || log_warn "the last log lines could not be uploaded; the console output has them"
}
