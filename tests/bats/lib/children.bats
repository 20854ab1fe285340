#!/usr/bin/env bats
# shell/lib/children.sh: only a child that runs is signalled, whoever has its id afterwards.
# shellcheck disable=SC2034,SC2154  # variables of the libraries and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/sampler.sh
  source "$project/shell/lib/sampler.sh"
  # Whoever has the id of a child that has ended: no child of this shell.
  other=$(
    sleep 60 >/dev/null 3>&- &
    echo "$!"
  )
}

teardown() {
  kill "$other" 2>/dev/null || true
  common_teardown
}

@test "a child is signalled while it runs, and not afterwards" {
  sleep 60 3>&- &
  child_runs "$!"
  signal_child TERM "$!"
  wait "$!" || assert_equal $? 143
  run ! child_runs "$!"
  run ! signal_child TERM "$!"
}

@test "a child that runs is waited for; one that has ended, and no child, are not" {
  sleep 0.2 3>&- &
  wait_for_child "$!"
  run ! child_runs "$!"
  wait_for_child "$!"
  wait_for_child "$other"
  wait_for_child ''
}

@test "the child that was begun last is without a name until one is given" {
  sleep 60 3>&- &
  local first=$!
  last_child_has_no_name
  last_child_has_no_name 1 ''
  run ! last_child_has_no_name 1 "$first" 2
  sleep 60 3>&- &
  last_child_has_no_name "$first"
  end_children "$first" "$!"
}

@test "no id is no child, with children and without" {
  run ! signal_child TERM ''
  sleep 60 3>&- &
  run ! signal_child TERM ''
  end_children "$!"
}

@test "whoever has got the id of a part of the run that has ended is left alone" {
  child_pid=$other sampler_pid=$other checkpoint_sync_pid=$other
  behind=([environment]=$other [data_sync]=$other)
  stop_child 0
  stop_sampler
  stop_background
  stop_checkpoint_sync
  kill -0 "$other"
}

@test "children are ended at once: one that waits for another's end gets it" {
  local name
  local -a children=()
  for name in a b; do
    bash -c 'trap "touch ended-$1; for _ in {1..100}; do [[ ! -e ended-$2 ]] || exit 0; sleep 0.05; done; touch alone" TERM
      touch "begun-$1"; for _ in {1..400}; do sleep 0.05; done' _ "$name" "$([[ $name == a ]] && echo b || echo a)" 3>&- &
    children+=("$!")
  done
  while [[ ! -e begun-a || ! -e begun-b ]]; do sleep 0.05; done
  end_children '' "${children[@]}" "$other"
  assert [ -e ended-a -a -e ended-b -a ! -e alone ]
  run ! kill -0 "${children[@]}"
  kill -0 "$other"
}
