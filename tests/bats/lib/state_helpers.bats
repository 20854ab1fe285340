#!/usr/bin/env bats
# shell/lib/state_helpers.sh: the state file's compare-and-swap, the table of transitions.
# shellcheck disable=SC2153,SC2154  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly STATUSES=(initialization data_sync training results_sync failed killed cleanup)

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/state_helpers.sh
  source "$project/shell/lib/state_helpers.sh"
  use_fake_s3 a-bucket
}

teardown() { common_teardown; }

# In this process, and in those that `run` starts.
sleep() { printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"; }

# What the document says, written out here a second time on purpose.
document_allows() {
  case "$1 $2" in
    'initialization data_sync' | 'data_sync training' | 'training results_sync' | 'results_sync cleanup') return 0 ;;
    'initialization failed' | 'data_sync failed' | 'training failed' | 'results_sync failed') return 0 ;;
    'training killed' | 'failed cleanup' | 'killed cleanup') return 0 ;;
    *) [[ $1 == "$2" ]] ;;
  esac
}

# -- read_state -----------------------------------------------------------------------------------------

@test "a full disk makes a call fail with a message, and does not end the shell" {
  local script="source '$project/shell/lib/state_helpers.sh'
    set -u
    read_state a-bucket dev || echo \"read: \$?\"
    retry_with_backoff 2 aws sts get-caller-identity || _report_aws_error 'asking' || echo \"call: \$?\"
    echo alive"
  TMPDIR=/nonexistent run --separate-stderr bash -c "$script"
  assert_output $'read: 1\ncall: 1\nalive'
  refute_called '*'
}

@test "reads the state file and its ETag" {
  put_state training step_7
  read_state a-bucket dev
  assert_json "$STATE_JSON" .current_step step_7
  assert_equal "$STATE_ETAG" "\"$(md5sum "$(object a-bucket dev/system-state.json)" | cut -c1-32)\""
  assert_no_temporary_files
}

@test "no state file is exit code 27, quietly" {
  run --separate-stderr -27 read_state a-bucket dev
  assert_output ''
  assert_equal "$stderr" ''
}

@test "a refused read is exit code 15 and names the file" {
  aws_plan 's3api get-object *' --error AccessDenied
  run --separate-stderr -15 read_state a-bucket dev
  assert_output ''
  assert_regex "$stderr" 's3://a-bucket/dev/system-state.json.*policy'
}

@test "a read that never gets an answer is exit code 1, after six tries" {
  aws_plan 's3api get-object *' --silence --times 6
  run --separate-stderr -1 read_state a-bucket dev
}

@test "a state file that is not one JSON object is exit code 14 and stays as it is" {
  local body good
  good=$(state_body)
  for body in '' $'\n' 'not json' "${good:0:120}" null '[]' "$good$good"; do
    put_object a-bucket dev/system-state.json "$body"
    run -14 transition_state a-bucket dev 2025-01-15-143022 failed training
    assert_equal "$(state_now)" "${body%$'\n'}"
  done
  assert_effects
}

@test "a state file with a wrong or missing field is exit code 14, and the message names the field" {
  local body
  local -a bodies names=('run_id is missing' 'control is missing' 'unknown status paused' 'status is number, expected string'
    'instance_id is number, expected string or null' 'pid is boolean' 'timestamps is string' 'control is array'
    'control.writer is missing' 'control.revision is string' 'timestamps.last_update is missing'
    'schema 2 of a newer version of this project.*update it')
  readarray -t bodies < <(state_body | jq -c 'del(.run_id), del(.control), (.status = "paused"), (.status = 3), (.instance_id = 3),
    (.pid = true), (.timestamps = "now"), (.control = []), del(.control.writer), (.control.revision = "3"), del(.timestamps.last_update),
    (.control.schema_version = 2)')
  assert_equal "${#bodies[@]}" "${#names[@]}"
  for body in "${!bodies[@]}"; do
    run --separate-stderr -14 validate_state "${bodies[body]}"
    assert_regex "$stderr" "${names[body]}"
  done
  put_object a-bucket dev/system-state.json "${bodies[2]}"
  run -14 transition_state a-bucket dev 2025-01-15-143022 failed training
  assert_effects
}

@test "Bash and Python find the same state files wrong" {
  local body verdicts=()
  while IFS= read -r body; do
    printf '%s\n' "$body" >"$work/${#verdicts[@]}.json"
    if validate_state "$body" 2>/dev/null; then verdicts+=(right); else verdicts+=(wrong); fi
  done < <(state_body | jq -c '., del(.pid), (.status = "paused"), (.pid = false), (.control.attempt = null), (.timestamps = []),
    (.error_message = 1), (.more = "is allowed"), (.control.nodes = (2, "2")), (.control.instance_ids = ([], ["i-0a"], ["i-0a", 1], "i-0a", {})), (.training_config = null), (.control.revision = 1.5),
    (.control.schema_version = (1, 1.0, null, 2, "1", 1.5, true)),
    (.control.nodes = (1.5, 0, -1, 64, 100, 1000000000, null)), (.run_id = ("2025-01-15", "../../x", "--dry-run", "2025-01-15-143022\n")),
    (.instance_id = (null, "", "i-", "i-0abc", "--dry-run", "i-0abc\n", "i-0\nabc", "I-0ABC")), (.control.instance_ids = ["i-0a", "--dry-run"])')
  run -0 "$CHRONOS_PYTHON" - "$work" "${#verdicts[@]}" <<'PYTHON'
import json, pathlib, sys
from chronos_ec2.errors import StateUnreadable
from chronos_ec2.state.machine import validate_state
for number in range(int(sys.argv[2])):
    try:
        validate_state(json.loads(pathlib.Path(sys.argv[1], f"{number}.json").read_text()))
        print("right")
    except StateUnreadable:
        print("wrong")
PYTHON
  assert_output "$(printf '%s\n' "${verdicts[@]}")"
  assert_equal "${verdicts[*]}" 'right wrong wrong wrong wrong wrong wrong right right wrong right right wrong wrong wrong wrong right right right right wrong wrong wrong wrong '"\
"'wrong wrong wrong right wrong wrong wrong wrong wrong wrong wrong right wrong wrong right wrong wrong wrong wrong wrong'
}

# -- atomic_write_state -----------------------------------------------------------------------------------

# <text>
put_on_a_full_disk() {
  # shellcheck disable=SC2059,SC2329  # it stands in for the builtin
  printf() { if [[ $2 == "$text" ]]; then builtin printf "$@" >/dev/full; else builtin printf "$@"; fi; }
  local text=$1
  _put_text a-bucket dev/system-state.json "$text" || return $?
}

@test "on a full disk nothing is sent: half a state would be worse than an old one" {
  run --separate-stderr ! put_on_a_full_disk '{"half":'
  assert_regex "$stderr" 'No space left on device'
  assert_effects
}

# An s5cmd that works on the fake S3. <exit status of pipe> <of rm>
use_s5cmd() {
  local program="$FAKE_AWS_DIR/s5cmd"
  # shellcheck disable=SC2016  # the program's own
  printf '%s\n' '#!/usr/bin/env bash' 'file=${!#}' 'file=${0%/*}/s3/${file#s3://}' \
    'printf "s5cmd %s %s\n" "$3" "${file##*/}" >>"${0%/*}/effects"' \
    "case \$3 in pipe) mkdir -p \"\${file%/*}\"; cat >\"\$file\"; exit $1 ;; rm) (($2)) || rm \"\$file\"; exit $2 ;; esac" >"$program"
  chmod +x "$program"
  stage_by "$program" --log error
}

@test "a patient process outlasts many errors in a row, and having waited in vain tries as often as others" {
  put_state
  be_patient
  aws_plan 's3api get-object *' --error ServiceUnavailable --times 17
  read_state a-bucket dev
  assert_json "$STATE_JSON" .status training
  aws_plan 's3api get-object *' --error ServiceUnavailable --times 24
  run_and_count 18
  run_and_count 6
}

@test "another call that was made in vain as often takes nothing of the state's patience" {
  be_patient
  aws_plan 'sts get-caller-identity' --error ServiceUnavailable --times 18
  retry_with_backoff 18 aws sts get-caller-identity && fail 'it was answered'
  aws_plan 's3api get-object *' --error ServiceUnavailable --times 18
  run_and_count 18
}

# Reads a state that cannot be had. <how often it is asked for>
run_and_count() {
  local before
  before=$(count_calls '*get-object*')
  read_state a-bucket dev 2>/dev/null && fail 'it was read'
  assert_equal "$(($(count_calls '*get-object*') - before))" "$1"
}

@test "where there is an s5cmd, it stages the body and drops it; the CLI publishes" {
  use_s5cmd 0 0
  atomic_write_state a-bucket dev "$(state_body)" ''
  assert_effects 's5cmd pipe system-state.json.tmp-N' 'copy-object dev/system-state.json if-none-match=*' \
    's5cmd rm system-state.json.tmp-N'
  assert_equal "$(state_now)" "$(state_body)"
}

@test "what s5cmd fails at, the CLI does" {
  use_s5cmd 1 1
  atomic_write_state a-bucket dev "$(state_body)" ''
  assert_effects 's5cmd pipe system-state.json.tmp-N' 'put-object dev/system-state.json.tmp-N' \
    'copy-object dev/system-state.json if-none-match=*' 's5cmd rm system-state.json.tmp-N' 'delete-object dev/system-state.json.tmp-N'
  assert_equal "$(state_now)" "$(state_body)"
}

@test "creates the state file by a copy that must not find one, and drops the staged body" {
  atomic_write_state a-bucket dev "$(state_body)" ''
  assert_called 1 s3api copy-object --bucket a-bucket --key dev/system-state.json \
    --copy-source a-bucket/dev/system-state.json.tmp-00ff00ff00ff00ff --if-none-match '*'
  assert_effects 'put-object dev/system-state.json.tmp-N' 'copy-object dev/system-state.json if-none-match=*' \
    'delete-object dev/system-state.json.tmp-N'
  assert_equal "$(state_now)" "$(state_body)"
  assert_json "$STATE_JSON" .status training
  assert_regex "$STATE_ETAG" '^"[0-9a-f]{32}"$'
  assert_no_temporary_files
}

@test "updates the state file by a copy that must find what was read" {
  put_state training step_7
  read_state a-bucket dev
  local etag=$STATE_ETAG
  atomic_write_state a-bucket dev "$(state_body training step_8)" "$STATE_ETAG"
  assert_called 1 s3api copy-object --bucket a-bucket --key dev/system-state.json \
    --copy-source a-bucket/dev/system-state.json.tmp-00ff00ff00ff00ff --if-match "$etag"
  assert_json "$(state_now)" .current_step step_8
}

@test "loses to a state file that exists already: exit code 28, nothing published" {
  put_state training step_7 2025-01-01-000000
  local before
  before=$(state_now | jq -c '.control.writer = "another"')
  put_object a-bucket dev/system-state.json "$before"
  run --separate-stderr -28 atomic_write_state a-bucket dev "$(state_body)" ''
  assert_equal "$(state_now)" "$before"
  assert_effects 'put-object dev/system-state.json.tmp-N' 'delete-object dev/system-state.json.tmp-N'
}

@test "loses to a writer that was faster: exit code 28, the other's body stays" {
  put_object a-bucket dev/system-state.json "$(state_body | jq -c '.control.writer = "another"')"
  run --separate-stderr -28 atomic_write_state a-bucket dev "$(state_body training step_9)" '"an old etag"'
  assert_json "$(state_now)" .current_step step_7
}

@test "a create whose answer was lost after it took effect is known by its nonce" {
  aws_plan 's3api copy-object *' --lost --silence
  atomic_write_state a-bucket dev "$(state_body)" ''
  assert_equal "$(count_calls 's3api copy-object *')" 2
  assert_effects 'put-object dev/system-state.json.tmp-N' 'copy-object dev/system-state.json if-none-match=*' \
    'delete-object dev/system-state.json.tmp-N'
  assert_equal "$STATE_ETAG" "\"$(md5sum "$(object a-bucket dev/system-state.json)" | cut -c1-32)\""
}

@test "an update whose answers were all lost after the first took effect is known by its nonce" {
  put_state
  read_state a-bucket dev
  aws_plan 's3api copy-object *' --lost --error InternalError
  aws_plan 's3api copy-object *' --silence --times 5
  atomic_write_state a-bucket dev "$(state_body training step_8 | jq -c '.control.writer = "abcd"')" "$STATE_ETAG"
  assert_json "$(state_now)" .current_step step_8
}

@test "an update that never got an answer and never took effect is a failure" {
  put_object a-bucket dev/system-state.json "$(state_body | jq -c '.control.writer = "another"')"
  aws_plan 's3api copy-object *' --silence --times 6
  run --separate-stderr -1 atomic_write_state a-bucket dev "$(state_body training step_8)" '"etag"'
  assert_regex "$stderr" 'publishing s3://a-bucket/dev/system-state.json.*Could not connect'
  assert_json "$(state_now)" .current_step step_7
}

@test "409 from a concurrent writer is tried again" {
  aws_plan 's3api copy-object *' --error ConditionalRequestConflict --times 2
  atomic_write_state a-bucket dev "$(state_body)" ''
  assert_equal "$(sleeps | wc -l)" 2
  assert_json "$(state_now)" .status training
}

@test "a refused staging is exit code 15, and nothing is published" {
  aws_plan 's3api put-object *' --error AccessDenied
  run --separate-stderr -15 atomic_write_state a-bucket dev "$(state_body)" ''
  refute_called 's3api copy-object *'
  assert_effects
}

@test "a refused publication is exit code 15, and the staged body is dropped" {
  aws_plan 's3api copy-object *' --error AccessDenied
  run --separate-stderr -15 atomic_write_state a-bucket dev "$(state_body)" ''
  assert_regex "$stderr" 'refused'
  assert_effects 'put-object dev/system-state.json.tmp-N' 'delete-object dev/system-state.json.tmp-N'
}

@test "a body that breaks the schema is refused before any call" {
  run --separate-stderr -14 atomic_write_state a-bucket dev '{"status":"training"}' ''
  assert_regex "$stderr" 'run_id is missing'
  refute_called '*'
}

@test "a staged body that cannot be dropped does not spoil the write" {
  aws_plan 's3api delete-object *' --error AccessDenied
  atomic_write_state a-bucket dev "$(state_body)" ''
  assert_json "$(state_now)" .status training
}

# -- transitions ------------------------------------------------------------------------------------------

@test "every pair of the seven statuses is allowed or refused as the document says, and Python agrees" {
  local from to wanted=() found=()
  for from in "${STATUSES[@]}"; do
    for to in "${STATUSES[@]}"; do
      if document_allows "$from" "$to"; then wanted+=("$from $to"); fi
      if is_allowed_transition "$from" "$to"; then found+=("$from $to"); fi
    done
  done
  assert_equal "$(printf '%s\n' "${found[@]}")" "$(printf '%s\n' "${wanted[@]}")"
  assert_equal "${#found[@]}" 18
  run -0 "$CHRONOS_PYTHON" -c '
from itertools import product
from chronos_ec2.state.machine import STATUSES, is_allowed
for pair in product(STATUSES, STATUSES):
    if is_allowed(*pair):
        print(*pair)'
  assert_output "$(printf '%s\n' "${wanted[@]}")"
}

@test "a status that nobody knows may neither be left nor entered" {
  run ! is_allowed_transition paused cleanup
  run ! is_allowed_transition training paused
  run ! is_allowed_transition paused paused
  run ! is_allowed_transition '' training
}

@test "an illegal transition is exit code 13 and writes nothing" {
  local from to body
  while read -r from to; do
    put_state "$from"
    body=$(state_now)
    run --separate-stderr -13 transition_state a-bucket dev 2025-01-15-143022 "$to" a_step
    assert_regex "$stderr" "$from may not become $to; nothing was changed"
    assert_equal "$(state_now)" "$body"
  done <<'PAIRS'
initialization training
results_sync killed
cleanup failed
PAIRS
  assert_effects
}

@test "a transition moves status and step, counts the revision, takes a new nonce and the time" {
  put_state data_sync data_sync
  local now
  transition_state a-bucket dev 2025-01-15-143022 training step_0 '{"pid": 42, "timestamps": {"start": "kept elsewhere"}}'
  now=$(state_now)
  assert_json "$now" '"\(.status) \(.current_step) \(.pid) \(.control.revision)"' 'training step_0 42 4'
  assert_regex "$(jq -r .control.writer <<<"$now")" '^[0-9a-f]{16}$'
  if [[ $(jq -r .control.writer <<<"$now") == 00ff00ff00ff00ff ]]; then fail 'the nonce was used again'; fi
  assert_regex "$(jq -r .timestamps.last_update <<<"$now")" "^20[0-9]{2}-.*T.*Z$"
  assert_json "$now" '.control.deadline' '2025-01-15T20:30:22Z'
}

@test "a second transition of the same process needs no read" {
  put_state initialization
  transition_state a-bucket dev 2025-01-15-143022 data_sync data_sync
  transition_state a-bucket dev 2025-01-15-143022 training step_0
  assert_equal "$(count_calls 's3api get-object *')" 1
  assert_json "$(state_now)" '"\(.status) \(.control.revision)"' 'training 5'
}

@test "a writer in between is read again: both changes stand" {
  put_state training step_7
  aws_plan 's3api copy-object *' --pass \
    --before "printf '%s' '$(state_body training step_8 | jq -c '.pid = 7 | .control.writer = "another"')' >'$(object a-bucket dev/system-state.json)'"
  transition_state a-bucket dev 2025-01-15-143022 killed step_8 '{"error_message": "killed by operator"}'
  assert_json "$(state_now)" '"\(.status) \(.pid) \(.error_message)"' 'killed 7 killed by operator'
  assert_equal "$(count_calls 's3api copy-object *')" 2
}

@test "a writer in between that ended the run stops the transition: exit code 13, the other's state stays" {
  put_state training step_7
  aws_plan 's3api copy-object *' --pass \
    --before "printf '%s' '$(state_body killed step_8 | jq -c '.control.writer = "another"')' >'$(object a-bucket dev/system-state.json)'"
  run --separate-stderr -13 transition_state a-bucket dev 2025-01-15-143022 results_sync results_sync
  assert_json "$(state_now)" .status killed
}

@test "writers that always win are given way to in the end: exit code 28" {
  put_object a-bucket dev/system-state.json "$(state_body | jq -c '.control.writer = "another"')"
  aws_plan 's3api copy-object *' --error PreconditionFailed --times 6
  run --separate-stderr -28 transition_state a-bucket dev 2025-01-15-143022 training step_8
  assert_regex "$stderr" 'other writers won 6 times'
  assert_json "$(state_now)" .current_step step_7
}

@test "a transition of a run that does not hold the environment is exit code 27 and writes nothing" {
  put_state training step_1 2025-01-20-000000
  run --separate-stderr -27 transition_state a-bucket dev 2025-01-15-143022 failed step_1
  assert_regex "$stderr" 'belongs to another run'
  assert_effects
  rm "$(object a-bucket dev/system-state.json)"
  run --separate-stderr -27 transition_state a-bucket dev 2025-01-15-143022 failed step_1
  assert_effects
}

@test "texts from outside are stored as they are, whatever is in them" {
  put_state training step_7
  # shellcheck disable=SC2016  # nothing may expand
  local text='quotes " and '\'' $(touch canary) `touch canary` \n end'
  transition_state a-bucket dev 2025-01-15-143022 failed step_7 "$(jq -cn --arg text "$text" '{error_message: $text}')"
  assert_json "$(state_now)" .error_message "$text"
  assert [ ! -e canary ]
}

# -- delete_state, check_concurrent_run, require_conditional_writes ------------------------------------------

@test "deletes its own state file only while it is what was read" {
  put_state cleanup cleanup
  local etag
  etag="\"$(md5sum "$(object a-bucket dev/system-state.json)" | cut -c1-32)\""
  delete_state a-bucket dev 2025-01-15-143022
  assert_called 1 s3api delete-object --bucket a-bucket --key dev/system-state.json --if-match "$etag"
  assert_effects 'delete-object dev/system-state.json if-match'
}

@test "leaves another run's state file alone, and one that is gone" {
  put_state training step_1 2025-01-20-000000
  delete_state a-bucket dev 2025-01-15-143022
  assert_json "$(state_now)" .run_id 2025-01-20-000000
  rm "$(object a-bucket dev/system-state.json)"
  delete_state a-bucket dev 2025-01-15-143022
  refute_called 's3api delete-object *'
}

@test "a state file that changed before the deletion is read again" {
  put_state cleanup cleanup
  aws_plan 's3api delete-object *' --pass \
    --before "printf '%s' '$(state_body training step_1 2025-01-20-000000)' >'$(object a-bucket dev/system-state.json)'"
  delete_state a-bucket dev 2025-01-15-143022
  assert_json "$(state_now)" .run_id 2025-01-20-000000
  assert_effects
}

@test "a deletion whose answer was lost counts" {
  put_state cleanup cleanup
  aws_plan 's3api delete-object *' --lost --silence
  delete_state a-bucket dev 2025-01-15-143022
  assert_equal "$(state_now)" ''
}

@test "a refused deletion is exit code 15, with a message" {
  put_state cleanup cleanup
  aws_plan 's3api delete-object *' --error AccessDenied
  run --separate-stderr -15 delete_state a-bucket dev 2025-01-15-143022
  assert_regex "$stderr" 'deleting s3://a-bucket/dev/system-state.json'
}

@test "a free environment is exit code 0 and no output" {
  run --separate-stderr -0 check_concurrent_run a-bucket dev
  assert_output ''
}

@test "a held environment is exit code 12 and names run, status, step, age and instance" {
  put_state training step_7
  run --separate-stderr -12 check_concurrent_run a-bucket dev
  assert_output 'run 2025-01-15-143022 holds dev: training at step_7, since 2025-01-15T14:30:22Z, last heard of 2025-01-15T14:40:00Z, instance i-0abc'
  assert_equal "$stderr" ''
}

@test "an environment whose state cannot be read is neither free nor held" {
  put_object a-bucket dev/system-state.json '{'
  run --separate-stderr -14 check_concurrent_run a-bucket dev
  assert_output ''
  aws_plan 's3api get-object *' --error AccessDenied
  run --separate-stderr -15 check_concurrent_run a-bucket dev
  assert_output ''
}

@test "a CLI that knows conditional copies passes without asking a server" {
  aws_plan 's3api copy-object --generate-cli-skeleton input' --out '{"IfMatch":"","IfNoneMatch":"","Bucket":""}'
  run --separate-stderr -0 require_conditional_writes
  assert_output ''
}

@test "a CLI without conditional copies is exit code 23, with its version" {
  aws_plan 's3api copy-object --generate-cli-skeleton input' --out '{"CopySourceIfMatch":"","CopySourceIfNoneMatch":"","Bucket":""}'
  aws_plan '--version' --out 'aws-cli/2.13.0'
  run --separate-stderr -23 require_conditional_writes
  assert_regex "$stderr" 'aws-cli/2.13.0'
}

@test "a CLI that does not run is exit code 24" {
  aws_plan 's3api copy-object --generate-cli-skeleton input' --exit 127
  run --separate-stderr -24 require_conditional_writes
}

# -- time ---------------------------------------------------------------------------------------------------

@test "log lines and timestamps are UTC wherever the laptop is" {
  local hour
  hour=$(date -u +%Y-%m-%dT%H)
  TZ=Asia/Tokyo run --separate-stderr bash -c "source '$project/shell/lib/log.sh'; utc_now; log_info 'it is now'"
  assert_regex "$output" "^$hour"
  assert_regex "$stderr" "^$hour:.*Z INFO  it is now$"
}
