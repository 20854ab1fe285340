#!/usr/bin/env bats
# shell/lib/run_record.sh: run.json gets its end once, by compare-and-swap.
# shellcheck disable=SC2154  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly RUN=2025-01-15-143022

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/run_record.sh
  source "$project/shell/lib/run_record.sh"
  use_fake_s3 a-bucket
  put_run_record
}

teardown() { common_teardown; }

sleep() { printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"; }

@test "merges changes into the record, under the ETag that was read" {
  local etag
  etag="\"$(md5sum "$(object a-bucket "dev/$RUN/run.json")" | cut -c1-32)\""
  update_run_record a-bucket dev "$RUN" '{"instance":{"id":"i-0abc"}}'
  assert_json "$(run_record_now)" '"\(.instance.id) \(.instance.type) \(.run_id)"' "i-0abc g4dn.2xlarge $RUN"
  assert_equal "$(count_calls "s3api put-object --bucket a-bucket --key dev/$RUN/run.json * --if-match $etag")" 1
  assert_effects "put-object dev/$RUN/run.json if-match"
  assert_no_temporary_files
}

@test "a record that has its end is never changed again" {
  put_object a-bucket "dev/$RUN/run.json" '{"ended_at":"2025-01-15T15:00:00Z","outcome":"succeeded"}'
  finish_run_record a-bucket dev "$RUN" killed training 'killed by operator' ''
  assert_json "$(run_record_now)" .outcome succeeded
  assert_effects
}

@test "a record that another writer changed meanwhile is read again" {
  aws_plan 's3api put-object *' --pass \
    --before "printf '%s' '{\"ended_at\":null,\"outcome\":null,\"by\":\"another\"}' >'$(object a-bucket "dev/$RUN/run.json")'"
  update_run_record a-bucket dev "$RUN" '{"instance":{"id":"i-0abc"}}'
  assert_json "$(run_record_now)" '"\(.instance.id) \(.by)"' 'i-0abc another'
}

@test "an end that another writer wrote meanwhile stands" {
  aws_plan 's3api put-object *' --pass \
    --before "printf '%s' '{\"ended_at\":\"2025-01-15T15:00:00Z\",\"outcome\":\"killed\"}' >'$(object a-bucket "dev/$RUN/run.json")'"
  finish_run_record a-bucket dev "$RUN" succeeded '' '' 0
  assert_json "$(run_record_now)" .outcome killed
}

@test "a write whose answer was lost is made once" {
  aws_plan 's3api put-object *' --lost --silence
  finish_run_record a-bucket dev "$RUN" failed training 'out of memory' 3
  assert_json "$(run_record_now)" .error 'out of memory'
  assert_effects "put-object dev/$RUN/run.json if-match"
}

@test "the end of a failed run has time, outcome, step, error, exit code and what else is given" {
  finish_run_record a-bucket dev "$RUN" failed training 'it said "no"' 3 '{"phases":[{"name":"training"}]}'
  assert_json "$(run_record_now)" '"\(.outcome) \(.failed_step) \(.error) \(.exit_code + 0) \(.phases[0].name)"' \
    'failed training it said "no" 3 training'
  assert_regex "$(run_record_now | jq -r .ended_at)" '^20[0-9-]+T[0-9:]+Z$'
}

@test "the end of a good run has nulls where nothing failed" {
  finish_run_record a-bucket dev "$RUN" succeeded '' '' 0
  assert_json "$(run_record_now)" '[.outcome, .failed_step, .error, .exit_code] | tojson' '["succeeded",null,null,0]'
}

@test "with the end comes the cost, from the record's own prices" {
  put_object a-bucket "dev/$RUN/run.json" '{"ended_at":null,"started_at":"2025-01-15T14:30:22Z","launched_at":"2025-01-15T14:30:30Z",
    "instance":{"id":"i-0abc"},"price":{"compute_usd_per_hour":0.752,"disk_usd_per_gb_month":0.08,"disk_gb":100,
    "address_usd_per_hour":0.005,"put_usd_per_1000":0.005,"get_usd_per_1000":0.0004}}'
  utc_now() { printf '2025-01-15T16:30:30Z\n'; }
  finish_run_record a-bucket dev "$RUN" succeeded '' '' 0 '{"requests":{"put":1000,"get":1000}}'
  assert_json "$(run_record_now)" '.cost_usd | tojson' \
    '{"compute":1.504,"disk":0.022222,"requests":0.0054,"address":0.01,"total":1.541622,"seconds":7200}'
}

@test "a record without an end, or without prices, gets no cost" {
  update_run_record a-bucket dev "$RUN" '{"price":{"compute_usd_per_hour":1}}'
  assert_json "$(run_record_now)" 'has("cost_usd")' false
  put_run_record
  finish_run_record a-bucket dev "$RUN" succeeded '' '' 0
  assert_json "$(run_record_now)" 'has("cost_usd")' false
}

@test "the end of a lost run was at its deadline at the latest" {
  put_object a-bucket "dev/$RUN/run.json" '{"ended_at":null,"outcome":null,"deadline":"2025-01-15T20:30:22Z"}'
  finish_run_record a-bucket dev "$RUN" lost training 'the machine is gone' ''
  assert_json "$(run_record_now)" .ended_at 2025-01-15T20:35:22Z
}

@test "an unknown exit code is null, not nought" {
  finish_run_record a-bucket dev "$RUN" killed '' 'killed by operator' ''
  assert_json "$(run_record_now)" '.exit_code | tojson' null
}

@test "a record that is not a JSON object is exit code 14 and stays as it is" {
  local body
  for body in '' '[]' '{"half' '"text"'; do
    put_object a-bucket "dev/$RUN/run.json" "$body"
    run --separate-stderr -14 update_run_record a-bucket dev "$RUN" '{"instance":{}}'
    assert_regex "$stderr" 'is not a JSON object'
    assert_equal "$(run_record_now)" "$body"
  done
  assert_effects
}

@test "a record that was never written is a failure, and none is made up" {
  rm "$(object a-bucket "dev/$RUN/run.json")"
  run --separate-stderr -1 finish_run_record a-bucket dev "$RUN" killed '' '' ''
  assert_regex "$stderr" "reading s3://a-bucket/dev/$RUN/run.json"
  assert_effects
}

@test "a refusal by S3 is exit code 15" {
  aws_plan 's3api get-object *' --error AccessDenied
  run --separate-stderr -15 update_run_record a-bucket dev "$RUN" '{}'
  aws_plan 's3api put-object *' --error AccessDenied
  run --separate-stderr -15 update_run_record a-bucket dev "$RUN" '{}'
  assert_no_temporary_files
}

@test "writers that always win are given way to in the end" {
  aws_plan 's3api put-object *' --error PreconditionFailed --times 4
  run --separate-stderr -1 update_run_record a-bucket dev "$RUN" '{"instance":{}}'
  assert_effects
}
