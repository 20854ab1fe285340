#!/usr/bin/env bats
# shell/lib/sampler.sh: the sampler beside the training, and what becomes of GPUs that do nothing.
# shellcheck disable=SC2030,SC2031,SC2034,SC2154,SC2329  # variables of the library and of the helpers; the library calls _pause
bats_require_minimum_version 1.5.0
load ../helpers/common

readonly RUN=2025-01-15-143022

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/sampler.sh
  source "$project/shell/lib/sampler.sh"
  use_fake_s3 a-bucket
  CHRONOS_BUCKET=a-bucket CHRONOS_ENV=dev CHRONOS_RUN_ID=$RUN CHRONOS_TOPIC_ARN='' CHRONOS_HEARTBEAT_SECONDS=15
}

teardown() {
  stop_sampler
  common_teardown
}

# Looks five times for idle GPUs of a run whose bootstrap is process $1. Before look N the snippet at_N runs. <tell|end>
watch_as() {
  local look=0
  _pause() {
    look=$((look + 1))
    if ((look == 6)); then exit 0; fi
    if declare -F "at_$look" >/dev/null; then "at_$look"; fi
  }
  (watch_for_idle_gpu "$1" reason idle "$2" 5)
}

@test "GPUs that do something are nobody's concern" {
  run --separate-stderr -0 watch_as 999999999 end
  assert_equal "$stderr" ''
  assert [ ! -e reason ]
}

@test "idle GPUs are named in the log once, and again when it begins anew; the run goes on" {
  at_2() { echo 20 >idle; }
  at_4() { rm idle; }
  at_5() { echo 21 >idle; }
  run --separate-stderr -0 watch_as 999999999 tell
  assert_regex "$stderr" 'WARN  no GPU did anything for 20 minutes of training, .*invoke kill'
  assert_equal "$(grep -c 'no GPU did anything' <<<"$stderr")" 2
  assert [ ! -e reason ]
}

@test "the topic is told, with the run's next commands" {
  CHRONOS_TOPIC_ARN=arn:aws:sns:us-east-1:123456789012:ChronosTraining
  aws_plan 'sns publish *' --out '{}'
  echo 20 >idle
  run --separate-stderr -0 watch_as 999999999 tell
  run -0 jq -r '.subject, .message' "$(object a-bucket "dev/$RUN/notices/idle.json")"
  assert_line "Chronos dev $RUN: no GPU did anything for 20 minutes"
  assert_line 'Nothing has been ended: look at it, then wait or end it.'
  assert_line "next: invoke logs --env dev --run $RUN"
  assert_line 'next: invoke kill --env dev'
}

@test "with idle_gpu_action end the reason is there before bootstrap gets TERM; an operator's kill stays the reason" {
  local victim
  echo 20 >idle
  mkfifo pipe
  bash -c 'trap "cat reason >seen; exit 0" TERM; : >ready; for _ in {1..400}; do read -r -t 0.05 <>pipe || true; done' 3>&- &
  victim=$!
  while [[ ! -e ready ]]; do read -r -t 0.05 <>pipe || true; done
  run --separate-stderr -0 watch_as "$victim" end
  wait "$victim"
  assert_equal "$(<seen)" idle_gpu
  run -0 explain_idle_gpu idle
  assert_output --partial 'no GPU did anything for 20 minutes of training'
  echo killed >reason
  run --separate-stderr -0 watch_as 999999999 end
  assert_equal "$(<reason)" killed
}

@test "the sampler is given the run's settings and is gone when it is stopped" {
  venv_python="$work/python" data="$work/the data"
  CHRONOS_ROOT="$work/the disk" CHRONOS_SAMPLE_SECONDS=7 CHRONOS_IDLE_GPU_MINUTES=20
  # shellcheck disable=SC2016  # a script's text
  printf '#!/usr/bin/env bash\nprintf "%%s\\n" "$@" >"%s"\nexec sleep 600\n' "$work/argv" >python
  chmod +x python
  start_sampler 'the facts' 3>&-
  for _ in {1..200}; do
    if [[ $(tail -n 1 argv 2>/dev/null) == */kmsg ]]; then break; fi
    read -r -t 0.05 < <(sleep 0.05) || true
  done
  assert_equal "$(tr '\n' '|' <argv)" "-m|chronos_ec2.instance.sampler|--output|$work/the data/output|--bucket|a-bucket|--prefix|dev/$RUN/|--sample-seconds|7|--upload-seconds|15|--phase-file|the facts/phase|--idle-file|the facts/idle-gpu|--idle-minutes|20|--kmsg|$work/the disk/dev/kmsg|"
  local pid=$sampler_pid
  stop_sampler
  run ! kill -0 "$pid"
  stop_sampler
}

@test "a sampler that does not end holds nothing up, and takes no trap away" {
  local pid on_term
  bash -c 'trap "" TERM; : >ready; for ((;;)); do sleep 0.2; done' 3>&- &
  sampler_pid=$! pid=$!
  while [[ ! -e ready ]]; do read -r -t 0.05 < <(sleep 0.05) || true; done
  trap 'true as before' TERM
  stop_sampler 2>stderr
  on_term=$(trap -p TERM)
  trap - TERM
  assert_equal "$on_term" "trap -- 'true as before' SIGTERM"
  assert_regex "$(<stderr)" 'the sampler did not end; going on without it'
  wait "$pid" || true
}

@test "a sampler that has ended by itself is no trouble" {
  venv_python=false data="$work"
  start_sampler facts 3>&-
  wait "$sampler_pid" || true
  run --separate-stderr -0 stop_sampler
  assert_equal "$stderr" ''
}
