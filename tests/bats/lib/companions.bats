#!/usr/bin/env bats
# shell/lib/companions.sh: the log uploader and the watch for a kill.
# shellcheck disable=SC2154,SC2329  # variables of the library and of the helpers; the library calls _pause
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/companions.sh
  source "$project/shell/lib/companions.sh"
  use_fake_s3 a-bucket
}

teardown() { common_teardown; }

@test "the log is uploaded with the tag that the lifecycle rule looks for" {
  printf 'a line\n' >'a log'
  aws_plan 's3api put-object --bucket a-bucket --key dev/RUN/logs/bootstrap.log --body * --content-type text/plain --tagging chronos-class=log' --pass
  upload_log 'a log' a-bucket dev/RUN/logs/bootstrap.log
  assert_effects 'put-object dev/RUN/logs/bootstrap.log'
}

@test "what is sent does not grow with the log: S3 refuses bytes that are not those of the checksum" {
  printf 'one\n' >log
  aws_plan 's3api put-object *' --before "echo two >>'$work/log'" --pass
  upload_log log a-bucket a-key
  assert_equal "$(cat "$(object a-bucket a-key)")" one
}

@test "without room for a cut, a small log is sent as it is" {
  printf 'one\n' >log
  mktemp() { return 1; }
  upload_log log a-bucket a-key
  assert_equal "$(cat "$(object a-bucket a-key)")" one
}

@test "the log is uploaded when it has grown and only then; a failure is said and tried again" {
  local rounds=0
  printf 'one\n' >log
  # Each pause is one round of the loop; the sixth ends it.
  _pause() {
    rounds=$((rounds + 1))
    if ((rounds == 2)); then printf 'two\n' >>log; fi
    if ((rounds == 4)); then printf 'three\n' >>log; fi
    if ((rounds == 6)); then exit 0; fi
  }
  aws_plan 's3api put-object *' --pass
  aws_plan 's3api put-object *' --error SlowDown
  (upload_log_continuously log a-bucket a-key 10) 2>stderr
  assert_equal "$(count_calls 's3api put-object *')" 4
  assert_effects 'put-object a-key' 'put-object a-key' 'put-object a-key'
  assert_equal "$(cat "$(object a-bucket a-key)")" $'one\ntwo\nthree'
  assert_regex "$(<stderr)" 'log upload failed, next try in 10 s: .*SlowDown'
}

@test "a log beyond a part goes on in the next, and a full part is sent once" {
  local key rounds=0 part=$LOG_PART_BYTES
  # 6 MiB, exactly a part, then into the third; the last round adds nothing.
  local -a sizes=($((6 << 20)) "$part" "$((2 * part + 3))" "$((2 * part + 9))" "$((2 * part + 9))")
  head -c "$((2 * part + 9))" /dev/urandom >whole
  grow() { head -c "${sizes[rounds]}" whole >log; }
  grow
  _pause() {
    rounds=$((rounds + 1))
    if ((rounds == 5)); then exit 0; fi
    grow
  }
  (upload_log_continuously log a-bucket logs/bootstrap.log 10) 2>stderr
  assert_equal "$(<stderr)" ''
  assert_effects 'put-object logs/bootstrap.log' 'put-object logs/bootstrap.log' \
    'put-object logs/bootstrap.log.00002' 'put-object logs/bootstrap.log.00003' 'put-object logs/bootstrap.log.00003'
  for key in logs/bootstrap.log{,.00002,.00003}; do cat "$(object a-bucket "$key")"; done >joined
  assert_equal "$(sha256sum <joined)" "$(sha256sum <whole)"
  assert_equal "$(stat -c %s "$(object a-bucket logs/bootstrap.log)")" "$part"
}

@test "a part that S3 refused is sent again, and the end of a run sends no part twice" {
  head -c "$((LOG_PART_BYTES + 5))" /dev/urandom >log
  aws_plan 's3api put-object *' --error SlowDown
  run ! upload_log log a-bucket a-key
  upload_log log a-bucket a-key
  upload_log log a-bucket a-key
  assert_effects 'put-object a-key' 'put-object a-key.00002' 'put-object a-key.00002'
  assert_equal "$(cat "$(object a-bucket a-key)" "$(object a-bucket a-key.00002)" | sha256sum)" "$(sha256sum <log)"
}

@test "no piece of a log is left in the folder for it" {
  head -c "$((LOG_PART_BYTES + 5))" /dev/urandom >log
  export CHRONOS_ROOT=$work/disk
  mkdir -p "$CHRONOS_ROOT/dev/shm"
  aws_plan 's3api put-object *--body*disk/dev/shm/chronos-log.*' --pass
  aws_plan 's3api put-object *--body*disk/dev/shm/chronos-log.*' --error SlowDown
  run ! upload_log log a-bucket a-key
  run -0 ls -A "$CHRONOS_ROOT/dev/shm"
  assert_output ''
}

@test "a log that is not there yet does not end the uploader" {
  local rounds=0
  _pause() {
    rounds=$((rounds + 1))
    if ((rounds == 2)); then exit 0; fi
  }
  (upload_log_continuously nowhere a-bucket a-key 1)
  assert_effects
}

@test "a run has a reason to stop when it was killed, or when the claim is not its own any more" {
  local body
  local -a bodies reasons=('' killed killed '' lost)
  readarray -t bodies < <(state_body | jq -c '., (.status = "killed"), (.status = "failed" | .error_message = "killed by operator"),
    (.status = "failed" | .error_message = "out of memory"), (.run_id = "2025-01-20-000000")')
  for body in "${!bodies[@]}"; do
    put_object a-bucket dev/system-state.json "${bodies[body]}"
    run --separate-stderr -0 reason_to_stop a-bucket dev 2025-01-15-143022
    assert_output "${reasons[body]}"
  done
  rm "$(object a-bucket dev/system-state.json)"
  run --separate-stderr -0 reason_to_stop a-bucket dev 2025-01-15-143022
  assert_output lost
}

@test "a state that cannot be read is no reason to stop" {
  put_object a-bucket dev/system-state.json '{"half'
  run --separate-stderr -0 reason_to_stop a-bucket dev 2025-01-15-143022
  assert_output ''
  aws_plan 's3api get-object *' --error AccessDenied
  run --separate-stderr -0 reason_to_stop a-bucket dev 2025-01-15-143022
  assert_output ''
}

@test "the watch writes the reason down and only then sends TERM, once" {
  local victim
  put_state killed step_7
  _pause() { return 0; }
  mkfifo pipe
  bash -c 'trap "cat reason >seen; exit 0" TERM; : >ready; for _ in {1..200}; do read -r -t 0.05 <>pipe || true; done' 3>&- &
  victim=$!
  while [[ ! -e ready ]]; do read -r -t 0.05 <>pipe || true; done
  watch_for_kill a-bucket dev 2025-01-15-143022 "$victim" reason 1
  wait "$victim"
  assert_equal "$(<seen)" killed
  assert_equal "$(count_calls 's3api get-object *')" 1
}

@test "the watch goes on while there is no reason to stop" {
  local rounds=0
  put_state training step_7
  _pause() {
    rounds=$((rounds + 1))
    if ((rounds == 4)); then exit 0; fi
  }
  (watch_for_kill a-bucket dev 2025-01-15-143022 999999999 reason 1)
  assert_equal "$(count_calls 's3api get-object *')" 3
  assert [ ! -e reason ]
  assert_effects
}

read_and_beat() {
  read_state a-bucket dev
  beat_if_quiet a-bucket dev 2025-01-15-143022
}

@test "a state that was quiet for a minute gets a heartbeat, which changes nothing else" {
  put_state data_sync data_sync
  read_and_beat
  assert_json "$(state_now)" '"\(.status) \(.current_step) \(.control.revision)"' 'data_sync data_sync 4'
  read_and_beat
  assert_json "$(state_now)" .control.revision 4
}

@test "no heartbeat while training, where the wrapper's own must show, nor into another run's state" {
  put_state training step_7
  read_and_beat
  put_state data_sync data_sync 2025-01-20-000000
  read_and_beat
  assert_effects
}

@test "a companion that pauses ends at once on TERM, and its sleep with it" {
  local companion attempt
  : >log
  upload_log_continuously log a-bucket a-key 300 3>&- &
  companion=$!
  for ((attempt = 0; attempt < 100; attempt++)); do
    if pgrep -x sleep -P "$companion" >/dev/null; then break; fi
    sleep 0.05
  done
  run -0 pgrep -x sleep -P "$companion"
  kill -TERM "$companion"
  wait "$companion"
  for ((attempt = 0; attempt < 100; attempt++)); do
    ps -o pid= -p "$output" >/dev/null || return 0
    sleep 0.05
  done
  fail "sleep $output outlives the companion"
}
