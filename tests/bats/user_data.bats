#!/usr/bin/env bats
# templates/user_data.sh.j2: what the machine runs first. Rendered by the project's own code, run with fakes.
# shellcheck disable=SC2154  # variables of the helpers
bats_require_minimum_version 1.5.0
load helpers/common

readonly RUN=2025-01-15-143022

setup() {
  common_setup
  fake_sleep
  use_fake_s3 a-bucket
  export CHRONOS_ROOT="$work/the disk"
  mkdir -p "$CHRONOS_ROOT/var/lib/cloud/instance"
}

teardown() { common_teardown; }

# Renders to the file user_data. [key=value…]
render() {
  "$CHRONOS_PYTHON" - "$@" >user_data <<'PYTHON'
import json, sys
from chronos_ec2.errors import ChronosError
from chronos_ec2.workstation.render import render_user_data
values = {
    "run_id": "2025-01-15-143022", "environment": "dev", "bucket": "a-bucket", "region": "us-east-1",
    "deadline": "2025-01-15T20:30:22Z", "deadline_minutes": 360, "accelerator": "cuda", "min_free_disk_gb": 20,
    "heartbeat_seconds": 15, "log_upload_seconds": 10, "kill_grace_seconds": 90, "keep_on_failure_minutes": 0,
    "environment_archive": "venv.tar.gz", "environment_sha256": "e" * 64, "scripts_sha256": "a" * 64,
    "dataset_sha256": "d" * 64,
}
values.update(json.loads(word) for word in sys.argv[1:])
try:
    print(render_user_data(values), end="")
except ChronosError as error:
    sys.exit(f"{type(error).__name__}: {error}")
PYTHON
}

# Scripts in the bucket, with a bootstrap.sh that says it was reached. Prints the manifest's digest.
upload_scripts() {
  local folder
  folder=$(object a-bucket cached-datasets/scripts)
  mkdir -p "$folder/lib"
  # shellcheck disable=SC2016  # a script's text
  printf 'echo "bootstrap $0 $CHRONOS_RUN_ID $CHRONOS_DEADLINE_MINUTES" >>"$FAKE_AWS_DIR/effects"\n' >"$folder/bootstrap.sh"
  printf '# a library\n' >"$folder/lib/log.sh"
  (cd "$folder" && sha256sum bootstrap.sh lib/log.sh >MANIFEST.sha256)
  sha256sum "$folder/MANIFEST.sha256" | cut -d' ' -f1
}

# Runs the user data as cloud-init does on the machine that was launched with it.
start_machine() {
  cp user_data "$CHRONOS_ROOT/var/lib/cloud/instance/user-data.txt"
  run --separate-stderr bash user_data
}

@test "the rendered user data is valid Bash, clean to shellcheck, and far below EC2's 16 KB" {
  render
  run -0 bash -n user_data
  run -0 "$repository/.venv/bin/shellcheck" --norc user_data
  if (($(wc -c <user_data) > 6000)); then fail "$(wc -c <user_data) bytes"; fi
}

@test "values with quotes, spaces and dollar signs are data, never code" {
  # shellcheck disable=SC2016  # nothing may expand
  local bucket='a b'\''c "d" $(touch canary) `touch canary` ; touch canary'
  render "$(jq -cn --arg bucket "$bucket" '["bucket", $bucket]')" '["environment", "x;rm -rf ~"]'
  run -0 bash -n user_data
  aws_plan 's3 cp *' --silence --times 6
  start_machine
  assert_called 6 s3 cp --recursive --only-show-errors "s3://$bucket/cached-datasets/scripts/" .
  assert [ ! -e canary ]
}

@test "values with a new line or another control character are refused" {
  local value
  for value in 'a\nrm -rf x' 'a\u0000b' 'a\u001bb'; do
    run -1 render "[\"bucket\", \"$value\"]"
    assert_output --partial 'SettingsError'
  done
}

@test "a machine that was not launched with this text does nothing: exit code 25, no power-off" {
  render
  run --separate-stderr -25 bash user_data
  assert_regex "$stderr" "not launched for run $RUN; nothing was done"
  printf 'CHRONOS_RUN_ID=2025-01-20-000000 ' >"$CHRONOS_ROOT/var/lib/cloud/instance/user-data.txt"
  run --separate-stderr -25 bash user_data
  assert_effects
  refute_called '*'
}

@test "arms the dead man's switch first, fetches the scripts, checks them, and hands over" {
  local digest
  digest=$(upload_scripts)
  render "[\"scripts_sha256\", \"$digest\"]"
  start_machine
  assert_success
  assert_effects 'shutdown -P +360' "bootstrap $CHRONOS_ROOT/opt/chronos/scripts/bootstrap.sh $RUN 360" \
    'shutdown -P now' # also when the bootstrap was killed before it could do it itself
  assert [ -f "$CHRONOS_ROOT/opt/chronos/scripts/lib/log.sh" ]
}

@test "scripts that are not those of the launch are not run: the machine powers off" {
  upload_scripts
  render
  start_machine
  assert_failure
  assert_effects 'shutdown -P +360' 'shutdown -P now'
}

@test "a script that was changed after its digest was taken is not run" {
  local digest
  digest=$(upload_scripts)
  render "[\"scripts_sha256\", \"$digest\"]"
  printf 'touch canary\n' >>"$(object a-bucket cached-datasets/scripts/bootstrap.sh)"
  start_machine
  assert_failure
  assert_effects 'shutdown -P +360' 'shutdown -P now'
  assert [ ! -e canary ]
}

@test "a file that the manifest does not name is left out" {
  local digest
  digest=$(upload_scripts)
  render "[\"scripts_sha256\", \"$digest\"]"
  put_object a-bucket cached-datasets/scripts/lib/stowaway.sh 'touch canary'
  start_machine
  assert_success
  assert [ ! -e "$CHRONOS_ROOT/opt/chronos/scripts/lib/stowaway.sh" ]
}

@test "a download that fails twice is tried again" {
  local digest
  digest=$(upload_scripts)
  render "[\"scripts_sha256\", \"$digest\"]"
  aws_plan 's3 cp *' --silence --times 2
  start_machine
  assert_success
  assert_equal "$(sleeps | tr '\n' ' ')" '1 2 '
}

@test "a download that never works powers the machine off" {
  render
  aws_plan 's3 cp *' --silence --times 6
  start_machine
  assert_failure
  assert_regex "$stderr" 'user data: ended; powering off'
  assert_effects 'shutdown -P +360' 'shutdown -P now'
}

@test "a dead man's switch that cannot be armed powers the machine off: it would bill without a limit" {
  render
  FAKE_SHUTDOWN_FAILS=1 start_machine
  assert_failure
  assert_effects 'shutdown -P +360' 'shutdown -P now'
}
