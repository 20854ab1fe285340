#!/usr/bin/env bats
# shell/lib/nodes.sh: one machine of several; which place it has, how it ends, and who records the run.
# shellcheck disable=SC2154,SC2034,SC2329  # variables of the library and of the helpers; functions that it calls
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly RUN=2025-01-15-143022

setup() {
  common_setup
  export FAKE_IMDS="$work/imds" CHRONOS_BUCKET=a-bucket CHRONOS_ENV=dev CHRONOS_RUN_ID=$RUN CHRONOS_NODES=2
  export CHRONOS_ROOT="$work/disk" CHRONOS_HEARTBEAT_SECONDS=1
  mkdir -p "$FAKE_IMDS/meta-data" "$CHRONOS_ROOT/data/output/logs" "$CHRONOS_ROOT/var/log/chronos" "$CHRONOS_ROOT/opt/chronos"
  # shellcheck source=../../../shell/lib/ending.sh
  source "$project/shell/lib/ending.sh"
  # What bootstrap.sh gives, or does for good.
  move_run() { transition_state "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" "$@"; }
  flush_log() { :; }
  tell_end() { printf '%s\n' "$*" >"$work/told"; }
  power_off() { printf 'off\n' >"$work/power"; }
  use_fake_s3 a-bucket
  put_state training step_7 "$RUN"
  put_run_record "$RUN"
  INSTANCE_ID=i-0b phase=training phase_started=$EPOCHREALTIME problem=''
  stop_reason_file="$work/reason" notice_file="$work/notice"
  printf r-1 >"$FAKE_IMDS/meta-data/reservation-id"
  printf 10.20.0.7 >"$FAKE_IMDS/meta-data/local-ipv4"
  place 1
}

teardown() { common_teardown; }

# Makes this machine a node. <rank>
place() {
  printf '%s' "$1" >"$FAKE_IMDS/meta-data/ami-launch-index"
  node_folder=''
  find_place 2>/dev/null
}

lost() { printf '{"rank": %d, "reason": "%s", "words": "%s"}' "$1" "$2" "$3" >"$node_report"; }
ended() { cat "$(object a-bucket "dev/$RUN/nodes/r-1/$1.end.json")"; }

@test "the place is EC2's: its number, its launch, its address; the first node's files lie where a single machine's do" {
  assert_equal "$node_rank|$node_board|$(log_name)|$node_address" "1|dev/$RUN/nodes/r-1/|logs/node-1/bootstrap.log|10.20.0.7"
  place 0
  leads
  assert_equal "$node_rank|$(log_name)|$node_folder" '0|logs/bootstrap.log|'
}

@test "a single machine asks for no place" {
  CHRONOS_NODES=1 node_rank=0 node_folder=''
  rm -r "$FAKE_IMDS"
  : >"$FAKE_AWS_DIR/curl"
  find_place
  leads
  run ! many_nodes
  assert_equal "$(cat "$FAKE_AWS_DIR/curl")" ''
  assert_equal "$(wrapper_flags | tr '\n' ' ')" "--bucket a-bucket --env dev --run-id $RUN "
}

@test "a machine whose place cannot be told does not go on: exit code 25" {
  sleep() { :; }
  rm "$FAKE_IMDS/meta-data/reservation-id"
  run --separate-stderr -25 find_place
  assert_regex "$stderr" 'does not tell this machine.s place'
}

@test "only the first node keeps the state file; each is told where to meet" {
  printf '[{"rank":0,"instance_id":"i-0a","address":"10.20.0.5","port":4000},{"rank":1,"instance_id":"i-0b","address":"10.20.0.7","port":0}]' >"$nodes_file"
  assert_equal "$(wrapper_flags | tr '\n' ' ')" '--nodes 2 --node-rank 1 --master 10.20.0.5:4000 '
  place 0
  assert_equal "$(wrapper_flags | tr '\n' ' ')" "--bucket a-bucket --env dev --run-id $RUN --nodes 2 --node-rank 0 --master 10.20.0.5:4000 "
  _record_nodes
  assert_json "$(state_now)" '.control.instance_ids | join(" ")' 'i-0a i-0b'
}

@test "the run has ended for a node when its state is gone, another's, failing or killed; an S3 that does not answer says nothing" {
  local status
  run ! _run_has_ended
  for status in failed killed cleanup; do
    put_state "$status" training "$RUN"
    _run_has_ended
  done
  put_state training step_7 2025-01-15-150000
  _run_has_ended
  rm "$(object a-bucket dev/system-state.json)"
  _run_has_ended
  put_state training step_7 "$RUN"
  aws_plan 's3api get-object *' --error AccessDenied
  run ! _run_has_ended
}

@test "a node that is done says so, saves its log and goes; it writes no state and no record" {
  local before
  before=$(state_now)
  printf 'epoch 1\n' >"$data/output/logs/training.log"
  aws_plan 'ec2 terminate-instances --instance-ids i-0b'
  end_node 0
  assert_json "$(ended 1)" '"\(.reason) \(.error) \(.instance_id)"' 'done null i-0b'
  assert_equal "$(cat "$(object a-bucket "dev/$RUN/logs/node-1/training.log")")" 'epoch 1'
  assert_equal "$(state_now)" "$before"
  assert_equal "$(cat "$work/power")" off
  assert [ -e "$home/told" ]
  assert_json "$(cat "$(object a-bucket "dev/$RUN/run.json")")" '.outcome' null
}

@test "a node that fails tells the others why, and leaves the run to the first one" {
  problem='preflight: cuda: no GPU'
  aws_plan 'ec2 terminate-instances --instance-ids i-0b'
  run -0 end_node 1
  assert_json "$(ended 1)" '"\(.reason): \(.error)"' 'failed: preflight: cuda: no GPU'
  assert_json "$(state_now)" .status training
}

@test "a spot notice to a node reaches the others at once, with its time" {
  printf '{"action":"terminate","time":"2025-01-15T15:00:00Z"}' >"$notice_file"
  mark_interruption "$notice_file"
  assert_json "$(ended 1)" '"\(.reason) \(.notice.time)"' 'interrupted 2025-01-15T15:00:00Z'
  assert_json "$(state_now)" .control.interruption null
}

@test "when EC2 says that the first node is gone, another one records the run's end in its place and frees the environment" {
  lost 0 gone 'node 0 (i-0a) is gone: EC2 says terminated'
  printf 'node\n' >"$stop_reason_file"
  aws_plan 'ec2 terminate-instances --instance-ids i-0b'
  put_object a-bucket dev/system-state.json "$(state_now | jq -c '.control.timeline = {first_step: "2025-01-15T14:35:00.000Z"}')"
  run -0 end_node 1
  assert_equal "$(state_now)" ''
  assert_json "$(cat "$(object a-bucket "dev/$RUN/run.json")")" .timeline.first_step 2025-01-15T14:35:00.000Z
  assert_json "$(cat "$(object a-bucket "dev/$RUN/run.json")")" '"\(.outcome) \(.failed_step)"' 'failed training'
  assert_regex "$(jq -r .error "$(object a-bucket "dev/$RUN/run.json")")" "node 0 .* is gone.*--resume $RUN"
  assert_regex "$(<"$work/told")" '^failed training '
}

@test "a first node that is only silent may live: its state and record are left to it" {
  lost 0 silent 'node 0 (i-0a) has given no sign of life for 60 s'
  printf 'node\n' >"$stop_reason_file"
  aws_plan 'ec2 terminate-instances --instance-ids i-0b'
  run -0 end_node 1
  assert_json "$(state_now)" .status training
}

@test "a node whose training has failed, and that was not told to stop, looks for one that was lost" {
  look_for_lost_node() { printf 'looked\n' >"$work/looked"; }
  note_stop_reason
  assert [ -e "$work/looked" ]
  give_reason "$stop_reason_file" interrupted # too late to be why
  assert_equal "$(stop_reason)" ''
  rm "$work/looked" "$stop_reason_file"
  put_state killed training "$RUN"
  note_stop_reason
  assert_equal "$(stop_reason)" killed
  assert [ ! -e "$work/looked" ]
}

@test "the first node fails with what went wrong here and there, and the way on" {
  place 0
  lost 1 failed 'node 1 (i-0b) has ended: disk full'
  printf 'node\n' >"$stop_reason_file"
  problem='the training command exited with 1'
  local way_on="go on from the newest checkpoint: invoke launch --env dev --resume $RUN"
  assert_equal "$(explain_end 1)" "the training command exited with 1; node 1 (i-0b) has ended: disk full; $way_on"
  lost 1 failed "node 1 (i-0b) has ended: node 2 (i-0c) is gone; $way_on"
  assert_equal "$(explain_end 1)" "the training command exited with 1; node 1 (i-0b) has ended: node 2 (i-0c) is gone; $way_on"
  assert_equal "$(outcome_of 1)" failed
}

@test "the first node's clean-up ends the other machines, each by itself; one that EC2 has forgotten saves none" {
  place 0
  INSTANCE_ID=i-0a
  aws_plan "ec2 describe-instances --output json --filters Name=tag:RunId,Values=$RUN *" \
    --out '{"Reservations":[{"Instances":[{"InstanceId":"i-0a"},{"InstanceId":"i-0b"},{"InstanceId":"i-0c"}]}]}'
  aws_plan 'ec2 terminate-instances --instance-ids i-0b' --error InvalidInstanceID.NotFound
  aws_plan 'ec2 terminate-instances --instance-ids i-0c'
  run -0 end_other_nodes
  CHRONOS_NODES=1
  run -0 end_other_nodes
  assert_output ''
}

@test "what one machine has asked of S3 counts for each of them" {
  assert_equal "$(requests_of_all_nodes <<<'{"requests":{"put":3,"get":4}}')" '{"requests":{"put":6,"get":8}}'
  assert_equal "$(requests_of_all_nodes <<<'{}')" '{}'
}

@test "the first node shows that it lives before it records who trains, which may take a while" {
  local attempt
  place 0
  # shellcheck disable=SC2016  # the program's own words
  printf '#!/bin/sh\nprintf "%%s\\n" "$3" >>"${0%%/*}/order"\n' >"$work/python"
  chmod +x "$work/python"
  venv_python="$work/python" companion_pids=()
  run_waiting() { "$@"; }
  _record_nodes() {
    for ((attempt = 0; attempt < 50; attempt++)); do
      if grep -q watch "$work/order"; then break; fi
      sleep 0.1
    done
    printf 'record\n' >>"$work/order"
  }
  meet_nodes 2>/dev/null
  wait
  assert_equal "$(tr '\n' ' ' <"$work/order")" 'meet watch record '
}
