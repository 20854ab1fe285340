#!/usr/bin/env bats
# shell/lib/stall.sh: a run that writes nothing any more is noticed once; one that writes anything is not.
# shellcheck disable=SC2154,SC2329  # variables of the library and of the helpers; the library calls _pause
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/stall.sh
  source "$project/shell/lib/stall.sh"
  mkdir -p 'the data/output/logs' 'the home/venv/lib'
  touch 'the data/output/logs/training.log' 'the home/venv/lib/module.py'
}

teardown() { common_teardown; }

tell() { printf 'told: %s after %s looks\n' "$1" "$(wc -l <pauses)" >>told; }

# Watches for 3 minutes of quiet, a minute a look. Before look N the snippet at_N runs; look 9 ends the watch.
watch() {
  local look=0
  _pause() {
    look=$((look + 1))
    if ((look == 9)); then exit 0; fi
    if declare -F "at_$look" >/dev/null; then "at_$look"; fi
    printf '%s\n' "$1" >>pauses
  }
  (watch_for_stall tell 3 60 marker 'the data' 'the home')
}

@test "nothing written for as long as that is told once, with the minutes" {
  watch
  assert_equal "$(<told)" 'told: 3 after 3 looks'
  assert_equal "$(sort -u pauses)" 60
}

@test "a line of output begins the time anew" {
  at_2() { printf 'step 1\n' >>'the data/output/logs/training.log'; }
  watch
  assert_equal "$(<told)" 'told: 3 after 5 looks'
}

@test "so do a file that unpacks with an old date, and one deeper than the watch looks" {
  at_2() { touch -d '2001-01-01' 'the home/venv/lib/module.py'; }
  at_4() { mkdir -p 'the data/output/checkpoints/step_7' && printf x >'the data/output/checkpoints/step_7/weights'; }
  watch
  assert_equal "$(<told)" 'told: 3 after 7 looks'
}

@test "a run that always writes is never told of" {
  local look
  for look in {1..8}; do source /dev/stdin <<<"at_$look() { date >'the data/output/logs/training.log'; }"; done
  watch
  assert [ ! -e told ]
}

@test "the sampler, which goes on beside a trainer that hangs, is no movement" {
  local look
  touch 'the data/output/metrics.jsonl'
  for look in {1..8}; do source /dev/stdin <<<"at_$look() { date >>'the data/output/metrics.jsonl'; }"; done
  watch
  assert_equal "$(<told)" 'told: 3 after 3 looks'
}

@test "folders that are not there yet are no movement and no error" {
  rm -r 'the data' 'the home'
  run --separate-stderr -0 watch
  assert_equal "$stderr" ''
  assert_equal "$(<told)" 'told: 3 after 3 looks'
}
