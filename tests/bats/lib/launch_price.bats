#!/usr/bin/env bats
# shell/lib/launch_price.sh: the record gets the price of the pool that gave the machine.
# shellcheck disable=SC2034,SC2154  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/launch_price.sh
  source "$project/shell/lib/launch_price.sh"
  printf '%s' '[{"zone":null,"instance_type":"g5.xlarge","market":"spot","compute_usd_per_hour":0.5},
    {"zone":"us-east-1b","instance_type":"g5.xlarge","market":"spot","compute_usd_per_hour":0.4},
    {"zone":null,"instance_type":"g5.xlarge","market":"on-demand","compute_usd_per_hour":1.006}]' >"$work/prices.json"
}

teardown() { common_teardown; }

# The price that a pool gets. <type> <market> <zone as JSON>
price_for() {
  local changes
  changes=$(with_launch_price "{\"pool\":{\"instance_type\":\"$1\",\"market\":\"$2\",\"zone\":$3},\"instance\":{\"id\":\"i-1\"}}")
  assert_json "$changes" .instance.id i-1
  jq '.price.compute_usd_per_hour' <<<"$changes"
}

@test "a pool gets the price of its type, its market and its zone, else of any zone" {
  assert_equal "$(price_for g5.xlarge spot '"us-east-1b"')" 0.4
  assert_equal "$(price_for g5.xlarge spot '"us-east-1c"')" 0.5
  assert_equal "$(price_for g5.xlarge spot null)" 0.5
  assert_equal "$(price_for g5.xlarge on-demand '"us-east-1b"')" 1.006
}

@test "a pool without a price, and changes that name no pool, leave the record's price as it is" {
  assert_json "$(with_launch_price '{"pool":{"instance_type":"x9.huge","market":"spot","zone":null}}')" 'has("price")' false
  assert_json "$(with_launch_price '{"instance":{"id":"i-1"}}')" 'has("price")' false
}

@test "the launch's time is written in any case" {
  utc_now() { printf '2025-01-15T14:30:30Z\n'; }
  assert_json "$(with_launch_price '{}')" tojson '{"launched_at":"2025-01-15T14:30:30Z"}'
}
