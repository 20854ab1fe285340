#!/usr/bin/env bats
# shell/lib/ladder.sh and pool.sh: which refusals move on, which stop, and that no launch ever has two instances.
# shellcheck disable=SC2154,SC2034,SC2030,SC2031,SC2089,SC2090,SC2016,SC2329  # variables and hooks of the libraries; JSON and jq programs
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly RUN=2025-01-15-143022
readonly TYPES=(g5.xlarge g6.xlarge)

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/ladder.sh
  source "$project/shell/lib/ladder.sh"
  use_fake_s3 a-bucket
  AWS_DEFAULT_REGION=us-east-1
  bucket=a-bucket environment=dev run_id=$RUN instance_id='' handed_over=false problem=''
  settings='{"volume_gb":100,"spot_max_price":"","wait_for_capacity_minutes":0,"market":"on-demand"}'
  exports='{"SecurityGroupId":"sg-1","InstanceProfileName":"AProfile"}'
  printf '{"ami":{"id":"ami-1","root_device":"/dev/sda1"}}' >"$work/facts.json"
  printf '{"deadline":"2025-01-15T20:30:22Z"}' >"$work/run.json"
  printf '{"deadline":"2025-01-15T20:30:22Z","switches":{}}' >"$work/run.json"
  pools on-demand
}

teardown() { common_teardown; }

# Waiting takes no time, and the clock goes on by as much; or by `tick` seconds, so that a long wait takes few looks.
tick=''
sleep() {
  printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"
  SECONDS=$((SECONDS + ${tick:-${1%%.*}}))
}

write_launch_files() { printf 'written\n' >>"$work/written"; }

# Writes the ladder: both types in subnet-a, in each of the markets. <market…>
pools() {
  local market type lines=''
  for market in "$@"; do
    for type in "${TYPES[@]}"; do
      lines+="{\"instance_type\":\"$type\",\"subnet_id\":\"subnet-a\",\"zone\":\"us-east-1a\",\"market\":\"$market\",\"quota\":{\"code\":\"L-1\",\"name\":\"A quota\"}},"
    done
  done
  printf '[%s]' "${lines%,}" >"$work/pools.json"
}

# Plans an accepted request. [pattern's end] [id] [more options]
accepted() { aws_plan "ec2 run-instances *${1:-}" --out "{\"Instances\":[{\"InstanceId\":\"${2:-i-0new}\"}]}" "${@:3}"; }

# Plans a look at an instance. <state> [state reason] [id] [more options]
seen() {
  aws_plan "ec2 describe-instances --instance-ids ${3:-i-0new} *" \
    --out "{\"Reservations\":[{\"Instances\":[{\"State\":{\"Name\":\"$1\"},\"StateReason\":{\"Code\":\"${2:-}\",\"Message\":\"a reason\"}}]}]}" "${@:4}"
}

refused() { aws_plan "ec2 run-instances *${2:-}" --error "$1" "${@:3}"; }

# Climbs, and shows what came of it.
climb() {
  climb_and_tell() {
    local status=0
    climb_ladder || status=$?
    printf '%s|%s|%s\n' "$instance_id" "$handed_over" "$(pool_words)"
    printf '%s\n' "$problem" >"$work/problem"
    ladder_record >"$work/record"
    return "$status"
  }
  run --separate-stderr "-$1" climb_and_tell
}

tokens() { grep -o -- '--client-token [0-9a-f]*' "$FAKE_AWS_DIR/calls" | cut -d' ' -f2; }

# -- one pool -------------------------------------------------------------------------------------------------------

@test "a token is that of workstation/pools.py, another for each attempt" {
  pool_type=g5.xlarge pool_subnet=subnet-a pool_market=spot
  # test_pools.py has the same digest.
  assert_equal "$(pool_token 2)" a7da1cc7fa8c1209b017f21832eb42680ea737437301545ee9e7a07ab0fa426b
}

@test "spot is asked for once, without a price of its own, and its request is tagged; on-demand has nothing of it" {
  local -a run_instances
  read_ladder
  take_pool 0
  plan_run_instances a-token
  [[ "${run_instances[*]}" != *spot* ]]
  pool_market=spot
  plan_run_instances a-token
  assert_equal "${run_instances[-1]}" \
    '{"MarketType":"spot","SpotOptions":{"SpotInstanceType":"one-time","InstanceInterruptionBehavior":"terminate"}}'
  assert_equal "$(jq -c 'map(.ResourceType)' <<<"${run_instances[-3]}")" '["instance","volume","network-interface","spot-instances-request"]'
  settings=$(jq '.spot_max_price = "0.5"' <<<"$settings")
  plan_run_instances a-token
  assert_equal "$(jq -r .SpotOptions.MaxPrice <<<"${run_instances[-1]}")" 0.5
}

@test "detailed monitoring is asked for with alarms, which watch by it, and not without" {
  local -a run_instances
  read_ladder
  take_pool 0
  plan_run_instances a-token
  [[ "${run_instances[*]}" != *--monitoring* ]]
  settings=$(jq '.alarm_hours = 4' <<<"$settings")
  plan_run_instances a-token
  [[ "${run_instances[*]}" == *' --monitoring Enabled=true --block-device-mappings '* ]]
}

# -- several machines ------------------------------------------------------------------------------------------------

two_nodes() {
  put_state initialization launch "$RUN" null
  settings=$(jq -c '.nodes = 2' <<<"$settings")
  exports='{"SecurityGroupId":"sg-1","ClusterSecurityGroupId":"sg-2","PlacementGroupName":"AGroup","InstanceProfileName":"AProfile"}'
}

# Plans two accepted machines, which the answer names in another order than EC2 counts them.
accepted_two() {
  aws_plan "ec2 run-instances *$1" --out '{"Instances":[{"InstanceId":"i-b","AmiLaunchIndex":1},{"InstanceId":"i-a","AmiLaunchIndex":0}]}'
}

# Plans a look at both. <state of the first> <of the second> [more options]
seen_two() {
  aws_plan 'ec2 describe-instances --instance-ids i-a i-b *' --out "$(jq -cn --args '{Reservations: [{Instances: ($ARGS.positional
    | to_entries | map({InstanceId: "i-\(.key)", State: {Name: .value}, StateReason: {Code: (if .value == "terminated"
      then "Server.InternalError" else "" end), Message: "a reason"}}))}]}' "$1" "$2")" "${@:3}"
}

@test "several machines are one request, all or none, in their place and with their group; one machine has neither" {
  local -a run_instances
  read_ladder
  take_pool 0
  plan_run_instances a-token
  assert_regex "${run_instances[*]}" ' --count 1 .*"Groups":\["sg-1"\]'
  [[ "${run_instances[*]}" != *placement* ]]
  two_nodes
  plan_run_instances a-token
  assert_regex "${run_instances[*]}" ' --count 2 .*"Groups":\["sg-1","sg-2"\].* --placement GroupName=AGroup '
}

@test "machines are kept in the order in which EC2 counts them; the hooks hear of all" {
  two_nodes
  accepted_two
  seen_two pending running
  seen_two running running
  after_acceptance() { printf '%s\n' "$*" >"$work/accepted"; }
  climb 0
  assert_output 'i-a|true|g5.xlarge us-east-1a on-demand'
  assert_equal "$(<"$work/accepted")" 'i-a i-b'
  assert_json "$(<"$work/record")" '.instance | "\(.id) \(.ids | join(" "))"' 'i-a i-a i-b'
}

@test "one of two that ends at its start ends the other, and the next pool is tried once both are gone" {
  two_nodes
  accepted_two '--instance-type g5.xlarge *'
  seen_two running terminated
  aws_plan 'ec2 terminate-instances --instance-ids i-a *'
  aws_plan 'ec2 terminate-instances --instance-ids i-b *'
  seen_two shutting-down terminated
  seen_two terminated terminated
  accepted '--instance-type g6.xlarge *'
  seen running
  after_loss() { printf '%s\n' "$*" >"$work/lost"; }
  climb 0
  assert_output 'i-0new|true|g6.xlarge us-east-1a on-demand'
  assert_equal "$(<"$work/lost")" 'i-a i-b'
}

@test "machines that do not go although one has ended stop the launch: no second attempt beside them" {
  two_nodes
  accepted_two
  seen_two running terminated --times any
  aws_plan 'ec2 terminate-instances --instance-ids i-a *'
  aws_plan 'ec2 terminate-instances --instance-ids i-b *'
  tick=60
  climb 17
  assert_output 'i-a|true|g5.xlarge us-east-1a on-demand'
  assert_regex "$(<"$work/problem")" 'one of 2 machines ended at its start .* do not go: i-a i-b'
}

@test "machines that are given up are ended each by itself: one that EC2 does not know yet keeps none of the others" {
  instance_ids=(i-a i-b i-c)
  aws_plan 'ec2 terminate-instances --instance-ids i-a *' --error InvalidInstanceID.NotFound
  aws_plan 'ec2 terminate-instances --instance-ids i-b *' --error UnauthorizedOperation
  aws_plan 'ec2 terminate-instances --instance-ids i-c *'
  aws_plan 'ec2 terminate-instances --instance-ids i-a *'
  run --separate-stderr -1 terminate_accepted
  assert_regex "$stderr" 'i-b could not be terminated: .*UnauthorizedOperation'
  assert_equal "$(grep -o 'i-[abc]' "$FAKE_AWS_DIR/calls.plain" | tr '\n' ' ')" 'i-a i-b i-c i-a '
}

@test "machines whose acceptance was never heard of are found by their token, all of them" {
  two_nodes
  aws_plan 'ec2 run-instances *' --silence --times any
  aws_plan 'ec2 describe-instances --filters Name=client-token,* --output json' --out \
    '{"Reservations":[{"Instances":[{"InstanceId":"i-a","AmiLaunchIndex":0}]}]}'
  aws_plan 'ec2 describe-instances --filters Name=client-token,* --output json' --out \
    '{"Reservations":[{"Instances":[{"InstanceId":"i-b","AmiLaunchIndex":1},{"InstanceId":"i-a","AmiLaunchIndex":0}]}]}'
  seen_two running running
  climb 0
  assert_json "$(<"$work/record")" '.instance.ids | join(" ")' 'i-a i-b'
}

@test "no capacity moves on to the next pool, which wins; each attempt is told and recorded" {
  refused InsufficientInstanceCapacity '--instance-type g5.xlarge *'
  accepted '--instance-type g6.xlarge *'
  seen running
  climb 0
  assert_output 'i-0new|true|g6.xlarge us-east-1a on-demand'
  assert_regex "$stderr" 'pool 1/2 g5.xlarge us-east-1a on-demand: no capacity \(InsufficientInstanceCapacity\)'
  assert_regex "$stderr" 'pool 2/2 g6.xlarge us-east-1a on-demand: instance i-0new'
  assert_json "$(<"$work/record")" '.attempts | length as $n | "\($n) \(.[0].instance_type) \(.[0].error)"' \
    '1 g5.xlarge InsufficientInstanceCapacity: the fake says so'
  assert_json "$(<"$work/record")" '"\(.pool.instance_type) \(.pool.subnet_id) \(.instance.type) \(.instance.market)"' \
    'g6.xlarge subnet-a g6.xlarge on-demand'
}

@test "no capacity anywhere is exit code 17, with the whole list and what helps" {
  refused Unsupported '--instance-type g5.xlarge *'
  refused InsufficientInstanceCapacity
  climb 17
  assert_regex "$stderr" '  g5.xlarge us-east-1a on-demand: not offered there \(Unsupported\)'
  assert_regex "$stderr" 'what helps: wait with --wait-for-capacity 2h; .*availability_zones: 2'
  assert_regex "$(<"$work/problem")" '^no pool has capacity after 1 round\(s\): g5.xlarge .*; g6.xlarge .*what helps'
  assert_equal "$(sleeps)" ''
}

@test "a quota stops at once, with its numbers" {
  refused VcpuLimitExceeded
  aws_plan 'service-quotas get-service-quota --service-code ec2 --quota-code L-1 *' --out '{"Quota":{"Value":2}}'
  aws_plan 'ec2 describe-instance-types *' --out '{"InstanceTypes":[{"VCpuInfo":{"DefaultVCpus":4}}]}'
  climb 17
  assert_output '|false|g5.xlarge us-east-1a on-demand'
  assert_regex "$stderr" 'quota L-1 \(A quota\) is 2 vCPUs in us-east-1; g5.xlarge needs 4'
  assert_regex "$(<"$work/problem")" '^EC2 refused the instance: pool 1/2 .*VcpuLimitExceeded.*--desired-value 6'
}

@test "spot at its quota leaves on-demand, and skips the other pools of spot" {
  pools spot on-demand
  refused MaxSpotInstanceCountExceeded '--instance-type g5.xlarge *'
  aws_plan 'service-quotas *' --error AccessDenied
  aws_plan 'ec2 describe-instance-types *' --error UnauthorizedOperation
  accepted '--instance-type g5.xlarge *'
  seen running
  climb 0
  assert_output 'i-0new|true|g5.xlarge us-east-1a on-demand'
  assert_regex "$stderr" 'spot is at its quota; going on with on-demand'
  assert_equal "$(count_calls 'ec2 run-instances *')" 2
}

@test "a wrong value, an AMI, an unknown code: each stops at once" {
  local code
  for code in InvalidParameterValue InvalidAMIID.NotFound NeverHeardOf; do
    refused "$code"
    climb 17
    assert_regex "$stderr" "EC2 says: the fake says so"
  done
  assert_equal "$(count_calls 'ec2 run-instances *')" 3
}

@test "a new instance profile is waited for, and asked for with the same token" {
  aws_plan 'ec2 run-instances *' --times 2 --exit 254 \
    --stderr 'An error occurred (InvalidParameterValue) when calling the RunInstances operation: Invalid IAM Instance Profile name'
  accepted
  seen running
  climb 0
  assert_equal "$(sleeps)" $'5\n5'
  assert_equal "$(tokens | sort -u | wc -l)" 1
}

@test "an instance profile that stays unknown stops after a minute" {
  aws_plan 'ec2 run-instances *' --times any --exit 254 \
    --stderr 'An error occurred (InvalidParameterValue) when calling the RunInstances operation: Invalid IAM Instance Profile name'
  tick=20
  climb 17
  assert_equal "$(sleeps | wc -l)" 3
  assert_regex "$stderr" 'run invoke deploy again'
}

# -- an answer that never came ----------------------------------------------------------------------------------------

@test "an instance whose acceptance was never heard of is found by its token and adopted; no other pool is asked" {
  aws_plan 'ec2 run-instances *' --silence --times 6
  aws_plan 'ec2 describe-instances --filters Name=client-token,Values=* *' --out '{"Reservations":[]}'
  aws_plan "ec2 describe-instances --filters Name=client-token,Values=* *" --out '{"Reservations":[{"Instances":[{"InstanceId":"i-0lost"}]}]}'
  seen running '' i-0lost
  climb 0
  assert_output 'i-0lost|true|g5.xlarge us-east-1a on-demand'
  assert_equal "$(tokens | sort -u)" "$(grep -o 'Values=[0-9a-f]*' "$FAKE_AWS_DIR/calls" | head -n 1 | cut -d= -f2)"
}

@test "an uncertain answer without an instance in sight stops: no other pool is asked" {
  aws_plan 'ec2 run-instances *' --error InternalError --times 6
  aws_plan 'ec2 describe-instances --filters *' --out '{"Reservations":[]}' --times 6
  climb 17
  assert_equal "$(count_calls 'ec2 run-instances *g6.xlarge*')" 0
  assert_regex "$(<"$work/problem")" 'may have made an instance, so no other pool was tried'
}

@test "a token that was used with other user data finds the instance of then" {
  refused IdempotentParameterMismatch
  aws_plan 'ec2 describe-instances --filters *' --out '{"Reservations":[{"Instances":[{"InstanceId":"i-0then"}]}]}'
  seen running '' i-0then
  climb 0
  assert_output 'i-0then|true|g5.xlarge us-east-1a on-demand'
}

# -- after the acceptance -----------------------------------------------------------------------------------------------

@test "an instance is followed until it is no longer pending; one that EC2 does not show yet is only young" {
  accepted
  aws_plan 'ec2 describe-instances --instance-ids i-0new *' --error InvalidInstanceID.NotFound
  seen pending
  seen running
  climb 0
  assert_equal "$(sleeps)" $'2\n2'
}

@test "an instance that stays pending, or cannot be looked at, is left to itself" {
  accepted '' i-0new --times 2
  seen pending '' i-0new --times any
  tick=60
  climb 0
  assert_regex "$stderr" 'i-0new is still pending after 180 s'
  rm "$FAKE_AWS_DIR"/plan/001.*
  aws_plan 'ec2 describe-instances *' --error UnauthorizedOperation
  climb 0
  assert_regex "$stderr" 'whether i-0new starts cannot be seen'
}

@test "an instance that ends at the start for lack of capacity is an attempt: the next pool is tried" {
  accepted '--instance-type g5.xlarge *' i-0first
  seen terminated Server.InsufficientInstanceCapacity i-0first
  accepted '--instance-type g6.xlarge *'
  seen running
  after_acceptance() { printf 'accepted %s\n' "$1" >>"$work/hooks"; }
  after_loss() { printf 'lost %s\n' "$1" >>"$work/hooks"; }
  climb 0
  assert_output 'i-0new|true|g6.xlarge us-east-1a on-demand'
  assert_equal "$(<"$work/hooks")" $'accepted i-0first\nlost i-0first\naccepted i-0new'
  assert_json "$(<"$work/record")" '.attempts[0].error' 'Server.InsufficientInstanceCapacity: a reason'
}

@test "an instance whose disk may not be decrypted stops, with the permission it lacks" {
  accepted
  seen shutting-down Client.InternalError
  climb 17
  assert_output '|false|g5.xlarge us-east-1a on-demand'
  assert_regex "$stderr" 'lacks the permission kms:CreateGrant'
}

@test "an instance that has run and ended by itself already is a launch that worked" {
  accepted
  seen terminated Client.InstanceInitiatedShutdown
  climb 0
  assert_output 'i-0new|true|g5.xlarge us-east-1a on-demand'
}

@test "an instance without what must stand by it is terminated, and the launch ends with the reason of that" {
  accepted
  aws_plan 'ec2 terminate-instances --instance-ids i-0new *' --out '{}'
  after_acceptance() {
    problem='no switch'
    return 1
  }
  climb 17
  assert_output 'i-0new|false|g5.xlarge us-east-1a on-demand'
  assert_equal "$(<"$work/problem")" 'no switch; the instance was terminated'
}

# -- waiting ------------------------------------------------------------------------------------------------------------

# The time to wait, with a ladder of one pool.
wait_minutes() {
  jq '.[:1]' "$work/pools.json" >"$work/one" && mv "$work/one" "$work/pools.json"
  settings=$(jq --argjson minutes "$1" '.wait_for_capacity_minutes = $minutes' <<<"$settings")
  put_state initialization launch "$RUN" null
}

@test "waiting: the claim is renewed within a minute, the next round has another token and a deadline from now" {
  wait_minutes 60
  _pause_seconds() { printf '150\n'; }
  tick=10
  refused InsufficientInstanceCapacity
  accepted
  seen running
  climb 0
  assert_regex "$stderr" 'looking again at [0-9:]{8}Z \(150 s\), until [0-9:]{8}Z'
  assert_equal "$(tokens | sort -u | wc -l)" 2
  assert_json "$(<"$work/record")" '.attempts | length' 1
  # After 50, 100 and 150 s, which is the end.
  assert_json "$(state_now)" '"\(.control.revision) \(.current_step)"' '6 launch'
  assert_equal "$(published '.current_step')" $'waiting_capacity\nwaiting_capacity\nlaunch'
  assert_equal "$(<"$work/written")" written
}

@test "what no waiting mends is not waited for" {
  wait_minutes 60
  refused Unsupported
  climb 17
  assert_equal "$(sleeps)" ''
  assert_regex "$(<"$work/problem")" 'no pool has capacity after 1 round\(s\): .*\(Unsupported\); what helps: more types'
}

@test "one pool that may have capacity later is waited for" {
  wait_minutes 60
  jq '. + [.[0] | .instance_type = "g6.xlarge"]' "$work/pools.json" >"$work/two" && mv "$work/two" "$work/pools.json"
  refused Unsupported '--instance-type g5.xlarge *' --times any
  refused InsufficientInstanceCapacity '--instance-type g6.xlarge *'
  accepted '--instance-type g6.xlarge *'
  seen running
  tick=10
  climb 0
  assert_json "$(<"$work/record")" '.attempts | length' 3
}

@test "the search ends with its time" {
  wait_minutes 1
  refused InsufficientInstanceCapacity '' --times any
  tick=30
  climb 17
  assert_regex "$(<"$work/problem")" 'no pool has capacity after 3 round'
  assert_regex "$(<"$work/problem")" 'what helps: wait longer'
}

@test "a run that is killed while it waits asks for nothing more: exit code 21" {
  wait_minutes 30
  refused InsufficientInstanceCapacity '' --before "rm '$(object a-bucket dev/system-state.json)'"
  tick=30
  climb 21
  assert_regex "$stderr" "run $RUN was ended while it was being launched"
  # Marked, by a kill that is still at it.
  put_state failed launch "$RUN" null
  refused InsufficientInstanceCapacity
  climb 21
}

@test "without a claim that is renewed no round begins" {
  wait_minutes 2
  refused InsufficientInstanceCapacity
  aws_plan 's3api get-object *' --error AccessDenied --times any
  tick=60
  climb 17
  assert_equal "$(<"$work/problem")" 'the claim on dev could not be renewed while waiting for capacity'
}

@test "pauses grow to four minutes, by chance from their half" {
  local round
  for round in 1 2 5 6 40; do
    RANDOM=0
    assert [ "$(_pause_seconds "$round")" -ge $((round < 5 ? (15 << (round - 1)) / 2 : 120)) ]
    assert [ "$(_pause_seconds "$round")" -le $((round < 5 ? 15 << (round - 1) : 240)) ]
  done
}

@test "a time to wait is given in hours, minutes or seconds" {
  assert_equal "$(wait_setting 2h)|$(wait_setting 30m)|$(wait_setting 08s)" \
    'wait_for_capacity_minutes=120.00|wait_for_capacity_minutes=30.00|wait_for_capacity_minutes=0.13'
  run --separate-stderr -2 wait_setting 2
  assert_regex "$stderr" "--wait-for-capacity takes a time such as 2h, 30m or 90s, got '2'"
}
