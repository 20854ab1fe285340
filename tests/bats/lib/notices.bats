#!/usr/bin/env bats
# shell/lib/notices.sh: the topic is told of an event once, in plain text, and nothing that goes wrong with it matters.
# shellcheck disable=SC2154  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly RUN=2025-01-15-143022 TOPIC=arn:aws:sns:us-east-1:123456789012:ChronosTraining

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/notices.sh
  source "$project/shell/lib/notices.sh"
  use_fake_s3 a-bucket
}

teardown() { common_teardown; }

# A run.json. <json object>
record() { put_object a-bucket "dev/$RUN/run.json" "$1"; }

# Sends a notice that SNS takes. <event> [what run.json may lack]
send() {
  aws_plan 'sns publish *' --out '{"MessageId": "1"}'
  run --separate-stderr -0 notify "$TOPIC" a-bucket dev "$RUN" "$@"
}

# What was sent, as it lies in the bucket. <event> <field>
sent() { jq -r ".$2" "$(object a-bucket "dev/$RUN/notices/$1.json")"; }

ended='{"started_at":"2025-01-15T14:30:22Z","ended_at":"2025-01-15T16:30:22Z","outcome":"failed","failed_step":"training",
  "error":"CUDA out of memory","instance":{"id":"i-0abc","type":"g4dn.2xlarge","market":"on-demand"},
  "cost_usd":{"total":1.5304},"deadline":"2025-01-15T20:30:22Z"}'

@test "the end of a run: environment, run, outcome, step, error, machine, time, cost, results, next command" {
  record "$ended"
  send end
  assert_equal "$(sent end subject)" "Chronos dev $RUN: failed at training (\$1.53)"
  assert_equal "$(sent end message)" "Run $RUN of dev: failed at training.

environment dev
run         $RUN
outcome     failed
step        training
error       CUDA out of memory
machine     i-0abc, g4dn.2xlarge, on-demand
began       2025-01-15T14:30:22Z
lasted      2 h 00 min
cost        \$1.53
results     s3://a-bucket/dev/$RUN/

next: invoke logs --env dev --run $RUN"
  assert_called 1 sns publish --topic-arn "$TOPIC" --subject "$(sent end subject)" --message "$(sent end message)"
  assert_equal "$output" ''
  assert_no_temporary_files
}

@test "each event and each outcome has its words and its next command" {
  local event record words command
  while IFS='|' read -r event record words command; do
    printf '%s' "$record" >record.json
    run -0 compose_notice record.json a-bucket dev "$RUN" "$event" '{"stalled_minutes":15,"current_step":"step_7"}'
    assert_output --partial "\"subject\":\"Chronos dev $RUN: $words\","
    assert_output --regexp "next: $command\"}\$"
  done <<EVENTS
start|{}|training has begun|invoke watch --env dev
stall|{}|no progress for 15 minutes at step_7|invoke kill --env dev
stall|{"silent_for":"16 min 40 s"}|no sign of life for 16 min 40 s at step_7|invoke kill --env dev
end|{"outcome":"succeeded"}|succeeded|invoke fetch --env dev --run $RUN
end|{"outcome":"failed","failed_step":"data_sync"}|failed at data_sync|invoke logs --env dev --run $RUN
end|{"outcome":"interrupted","failed_step":"training","checkpoint_step":40}|interrupted at training|invoke launch --env dev --resume $RUN
end|{"outcome":"failed","error":"interrupted: EC2 takes it back","resume_from":"2025-01-14-000000"}|interrupted|invoke launch --env dev --resume 2025-01-14-000000
end|{"outcome":"interrupted","failed_step":"data_sync"}|interrupted at data_sync|invoke launch --env dev
end|{"outcome":"failed","failed_step":"training","error":"deadline reached: x","checkpoint_step":40}|ended by its deadline at training|invoke launch --env dev --resume $RUN
end|{"outcome":"lost","failed_step":"training","error":"deadline reached: x","checkpoint_step":40}|ended by its deadline at training|invoke launch --env dev --resume $RUN
end|{"outcome":"killed"}|killed|invoke logs --env dev --run $RUN
end|{"outcome":"lost","failed_step":"training"}|lost at training|invoke logs --env dev --run $RUN
end|{"outcome":"launch_failed","failed_step":"launch"}|the launch failed|invoke doctor --env dev
end|{}|ended|invoke logs --env dev --run $RUN
EVENTS
}

@test "a run that goes on is told with its limit, its price and what it has cost so far" {
  local start
  start=$(date -u -d '2 hours ago' +%FT%TZ)
  record "{\"started_at\":\"$start\",\"ended_at\":null,\"outcome\":null,\"deadline\":\"2025-01-15T20:30:22Z\",\"price\":{\"compute_usd_per_hour\":0.752}}"
  send start
  assert_regex "$(sent start message)" 'lasted +2 h 00 min'
  assert_regex "$(sent start message)" 'ends by +2025-01-15T20:30:22Z'
  # shellcheck disable=SC2016  # dollars
  assert_regex "$(sent start message)" 'cost +\$0.75 an hour; about \$1.5[01] so far'
}

@test "what run.json may lack is taken from the caller; what it has stands" {
  record '{"ended_at":null,"outcome":null,"failed_step":"training"}'
  send end '{"outcome":"killed","failed_step":"cleanup","error":"killed by operator"}'
  assert_equal "$(sent end subject)" "Chronos dev $RUN: killed at training"
}

@test "without run.json, or with one that is not JSON, there is a notice all the same" {
  local body
  for body in '' '{"half' '[1]'; do
    printf '%s' "$body" >record.json
    run -0 compose_notice record.json a-bucket dev "$RUN" end '{"outcome":"failed","error":"disk full"}'
    assert_output --partial "Chronos dev $RUN: failed\""
    assert_output --regexp 'error +disk full'
  done
  send end '{"outcome":"failed"}'
}

@test "a run of thousands of files is told of as well: no argument is as long as its record" {
  jq -n '{outcome: "succeeded", dataset: {files: [range(3000) | {name: "part-\(.).parquet", bytes: 7, sha256: ("0" * 64)}]}}' >record.json
  run -0 compose_notice record.json a-bucket dev "$RUN" end '{}'
  assert_output --partial "Chronos dev $RUN: succeeded\""
}

@test "a subject is one line of under 100 ASCII characters, whatever the run says" {
  local step
  step=$(printf 'step\\n\\u00e9\\u0000\\u001b[2J %0200d' 7)
  run -0 compose_notice none a-bucket "$(printf 'e%.0s' {1..32})" "$RUN" stall "{\"stalled_minutes\":15,\"current_step\":\"$step\"}"
  assert_json "$output" '.subject | length < 100 and test("^[ -~]+$")' true
  assert_json "$output" '.message | explode | map(select((. < 32 and . != 10) or . == 127)) | length' 0
}

@test "an error is one line, not endless, and shows no key" {
  local error='boto: AKIAIOSFODNN7EXAMPLE {"aws_secret_access_key": "abc"} password=hunter2&X-Amz-Signature=f00d
    DB_TOKEN: t0p'
  run -0 compose_notice none a-bucket dev "$RUN" end "$(jq -cn --arg e "$error" '{outcome: "failed", error: $e}')"
  assert_json "$output" '.message | split("\n") | map(select(startswith("error"))) | length' 1
  for word in AKIAIOSFODNN7EXAMPLE abc hunter2 f00d t0p; do refute_output --partial "$word"; done
  assert_output --partial 'boto: (hidden)'
  run -0 compose_notice none a-bucket dev "$RUN" end "$(jq -cn '{outcome: "failed", error: ("x" * 9000)}')"
  assert_json "$output" '.message | length < 1500' true
}

@test "without a topic nothing is asked and nothing is sent" {
  run --separate-stderr -0 notify '' a-bucket dev "$RUN" end
  refute_called '*'
}

@test "a topic to which nobody listens is none; one that cannot be asked about is one" {
  local question="sns list-subscriptions-by-topic --topic-arn $TOPIC --output json"
  assert_equal "$(heard_topic '')" ''
  aws_plan "$question" --out '{"Subscriptions": []}'
  assert_equal "$(heard_topic "$TOPIC")" ''
  aws_plan "$question" --out '{"Subscriptions": [{"Protocol": "email"}]}'
  aws_plan "$question" --error AuthorizationError
  aws_plan "$question" --out nonsense
  for _ in {1..3}; do assert_equal "$(heard_topic "$TOPIC")" "$TOPIC"; done
}

@test "a record that the caller has is not read again" {
  send end "$(jq -c . <<<"$ended")"
  assert_equal "$(sent end subject)" "Chronos dev $RUN: failed at training (\$1.53)"
  refute_called 's3api get-object *'
}

@test "an event is told once: whoever creates its object tells it" {
  record "$ended"
  send end
  run --separate-stderr -0 notify "$TOPIC" a-bucket dev "$RUN" end
  assert_regex "$stderr" 'sent before'
  send start
  assert_equal "$(count_calls 'sns publish *')" 2
  assert_equal "$(count_calls "s3api put-object --bucket a-bucket --key dev/$RUN/notices/end.json --body *notice.json --content-type application/json --tagging chronos-class=log --if-none-match \\*")" 2
}

@test "two that tell in the same moment are one notice" {
  record "$ended"
  aws_plan 's3api put-object *' --error ConditionalRequestConflict
  run --separate-stderr -0 notify "$TOPIC" a-bucket dev "$RUN" end
  refute_called 'sns publish *'
}

@test "a bucket that cannot be written keeps no notice back" {
  aws_plan 's3api put-object *' --error AccessDenied
  send end '{"outcome":"failed"}'
  assert_equal "$(count_calls 'sns publish *')" 1
}

@test "a topic that refuses is only logged, and the event can be told again" {
  record "$ended"
  aws_plan 'sns publish *' --error AuthorizationError
  run --separate-stderr -0 notify "$TOPIC" a-bucket dev "$RUN" end
  assert_regex "$stderr" "WARN  the notice of the end of run $RUN was not sent: .*AuthorizationError"
  assert [ ! -e "$(object a-bucket "dev/$RUN/notices/end.json")" ]
  assert_no_temporary_files
}

@test "an AWS that does not answer holds nothing up" {
  local began=$SECONDS
  _bounded() { # every call hangs; the limit is a hundredth
    printf '%s\n' "$2 $3" >>hung
    timeout "0.0$1" sleep 60
  }
  run --separate-stderr -0 notify "$TOPIC" a-bucket dev "$RUN" end
  assert_regex "$stderr" 'was not sent: no answer in time'
  assert_equal "$(<hung)" $'s3api get-object\ns3api put-object\nsns publish'
  if ((SECONDS - began > 5)); then fail "$((SECONDS - began)) s"; fi
}

@test "every call has a limit" {
  record "$ended"
  timeout() { printf '%s\n' "$*" >>limits && "${@:4}"; }
  send end
  run -0 grep -cE '^-k 1 [68] aws ' limits
  assert_output 3
}
