#!/usr/bin/env bats
# shell/lib/instance.sh: who this machine is, and the one way to power it off.
# shellcheck disable=SC2154  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/instance.sh
  source "$project/shell/lib/instance.sh"
}

teardown() { common_teardown; }

sleep() { printf '%s\n' "$*" >>"$FAKE_AWS_DIR/sleeps"; }

# A metadata service of an instance that was launched for a run. <run id>
be_an_instance() {
  export FAKE_IMDS="$work/imds"
  mkdir -p "$FAKE_IMDS/meta-data/tags/instance"
  printf 'i-0abc' >"$FAKE_IMDS/meta-data/instance-id"
  printf '%s' "$1" >"$FAKE_IMDS/meta-data/tags/instance/RunId"
}

@test "asks the metadata service with a token, within bounded time, past any proxy" {
  be_an_instance 2025-01-15-143022
  run -0 imds_get meta-data/instance-id
  assert_output i-0abc
  run -0 cat "$FAKE_AWS_DIR/curl"
  assert_line --index 0 --regexp "curl --silent --fail --connect-timeout 2 --max-time 5 --noproxy .* -X PUT .*http://169.254.169.254/latest/api/token"
  assert_line --index 1 --regexp 'a-token http://169.254.169.254/latest/meta-data/instance-id'
}

@test "asks another endpoint when AWS_EC2_METADATA_SERVICE_ENDPOINT says so, with or without a slash at its end" {
  be_an_instance 2025-01-15-143022
  AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1338/ imds_get meta-data/instance-id
  run -0 cat "$FAKE_AWS_DIR/curl"
  assert_line --index 1 --regexp ' http://127.0.0.1:1338/latest/meta-data/instance-id'
}

@test "a machine without a metadata service is not an instance: exit code 25 after five tries" {
  local status=0
  confirm_instance 2025-01-15-143022 2>stderr || status=$?
  assert_equal "$status" 25
  assert_equal "$INSTANCE_ID" ''
  assert_equal "$(sleeps | tr '\n' ' ')" '0 1 2 3 4 '
  assert_regex "$(<stderr)" 'not an EC2 instance, nothing was done'
}

@test "an instance of another run is not this run's: exit code 25" {
  be_an_instance 2025-01-20-000000
  local status=0
  confirm_instance 2025-01-15-143022 2>stderr || status=$?
  assert_equal "$status" 25
  assert_equal "$INSTANCE_ID" ''
  assert_regex "$(<stderr)" "not launched for run 2025-01-15-143022 \(its RunId tag: '2025-01-20-000000'\)"
}

@test "a metadata service that hesitates with the tag is asked again" {
  be_an_instance 2025-01-15-143022
  imds_get() {
    if [[ $1 != meta-data/tags/* ]]; then printf 'i-0abc'; elif [[ ! -e asked ]]; then : >asked && return 25; else printf '2025-01-15-143022'; fi
  }
  confirm_instance 2025-01-15-143022
  assert_equal "$INSTANCE_ID" i-0abc
}

@test "an instance without tags is nobody's: exit code 25" {
  be_an_instance 2025-01-15-143022
  rm -r "$FAKE_IMDS/meta-data/tags"
  run -25 confirm_instance 2025-01-15-143022
}

@test "a guest without its disk is nobody: its paths would be those of the machine that it runs on" {
  be_an_instance 2025-01-15-143022
  AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:8080 run -25 confirm_instance 2025-01-15-143022
  assert_output --partial "whose disk is not named (CHRONOS_ROOT)"
  export CHRONOS_ROOT=$work/disk
  AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:8080 run -0 confirm_instance 2025-01-15-143022
}

@test "the run's own instance is confirmed" {
  be_an_instance 2025-01-15-143022
  confirm_instance 2025-01-15-143022
  assert_equal "$INSTANCE_ID" i-0abc
}

@test "power-off is refused before the machine is confirmed, whatever it is asked" {
  run -25 power_off
  run -25 power_off 5
  be_an_instance 2025-01-20-000000
  confirm_instance 2025-01-15-143022 2>/dev/null || true
  run -25 power_off
  assert_effects
}

@test "a guest that finds its host's shutdown powers nothing off" {
  local given
  be_an_instance 2025-01-15-143022
  confirm_instance 2025-01-15-143022
  # No program of the machine's is run here, whatever becomes of the rule: `shutdown` is a function.
  shutdown() { printf 'shutdown %s\n' "$*" >>"$FAKE_AWS_DIR/effects"; }
  type() { if [[ $1 == -P && $2 == shutdown ]]; then printf '%s\n' "$found"; else builtin type "$@"; fi; }
  for found in /sbin/shutdown /usr/sbin/shutdown /usr/bin/shutdown ''; do
    for given in CHRONOS_ROOT="$work/disk" AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:80; do
      declare -x "$given"
      run -25 power_off
      run -25 power_off 5
      unset "${given%%=*}"
    done
  done
  assert_effects
  # On EC2 the very same path is the machine's own.
  found=/usr/sbin/shutdown AWS_EC2_METADATA_SERVICE_ENDPOINT=http://169.254.169.254 run -0 power_off
  assert_effects 'shutdown -P now'
}

@test "a confirmed machine powers off at once, or in some minutes" {
  be_an_instance 2025-01-15-143022
  confirm_instance 2025-01-15-143022
  power_off 15
  power_off
  assert_effects 'shutdown -P +15' 'shutdown -P now'
}
