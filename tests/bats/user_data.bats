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
  switch="$CHRONOS_ROOT/var/lib/cloud/scripts/per-boot/00-chronos-switch"
  export FAKE_MINUTES=1
  fake_clock 2025-01-15T14:32:22Z # two minutes after the launch
}

teardown() { common_teardown; }

# The time that `date +%s` tells from here on; other uses of `date` stay as they are. <time>
fake_clock() {
  local real
  real=$(type -P date)
  if [[ -z ${FAKE_NOW:-} ]]; then
    mkdir fakes
    # shellcheck disable=SC2016  # a script's text
    printf '#!/usr/bin/env bash\nif [[ $* == +%%s ]]; then set -- -d "$FAKE_NOW" +%%s; fi\nexec %q "$@"\n' "$real" >fakes/date
    chmod +x fakes/date
    PATH="$work/fakes:$PATH"
  fi
  export FAKE_NOW=$1
}

# Runs the switch and waits until its count-down has ended as well. [first]
run_switch() { : "$("$switch" "$@" 9>&1 >/dev/null 2>said)"; }

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
    "environment_archive": "venv.tar.gz", "environment_pieces_sha256": "e" * 64, "scripts_sha256": "a" * 64,
    "config_sha256": "c" * 64, "dataset_sha256": "d" * 64, "resume_from": "", "start_model": "", "topic_arn": "", "stale_minutes": 15,
    "sample_seconds": 5, "idle_gpu_minutes": 20, "idle_gpu_action": "tell", "nodes": 1,
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

# From here on every Bash finds `shutdown` in a folder of the machine that the guest runs on; what runs stays the stand-in.
find_the_hosts_shutdown() {
  type() { if [[ $* == '-P shutdown' ]]; then printf '/usr/sbin/shutdown\n'; else builtin type "$@"; fi; }
  export -f type
}

@test "a guest that finds its host's shutdown does nothing, now and at a restart" {
  render
  find_the_hosts_shutdown
  start_machine
  assert_failure 25
  assert_regex "$stderr" "/usr/sbin/shutdown is not this instance's; nothing was done"
  sed -n "/<<'SWITCH'/,/^SWITCH/p" user_data | sed '1d;$d' >a_switch
  run -0 bash a_switch
  assert_effects
  refute_called '*'
}

@test "arms the dead man's switch first, fetches the scripts, checks them, and hands over" {
  local digest
  digest=$(upload_scripts)
  render "[\"scripts_sha256\", \"$digest\"]"
  start_machine
  assert_success
  assert_effects 'shutdown -P +360' 'shutdown -P +358' "bootstrap $CHRONOS_ROOT/opt/chronos/scripts/bootstrap.sh $RUN 360" \
    'shutdown -P now' # also when the bootstrap was killed before it could do it itself
  assert [ -f "$CHRONOS_ROOT/opt/chronos/scripts/lib/log.sh" ]
}

@test "scripts that are not those of the launch are not run: the machine powers off" {
  upload_scripts
  render
  start_machine
  assert_failure
  assert_effects 'shutdown -P +360' 'shutdown -P +358' 'shutdown -P now'
}

@test "a script that was changed after its digest was taken is not run" {
  local digest
  digest=$(upload_scripts)
  render "[\"scripts_sha256\", \"$digest\"]"
  printf 'touch canary\n' >>"$(object a-bucket cached-datasets/scripts/bootstrap.sh)"
  start_machine
  assert_failure
  assert_effects 'shutdown -P +360' 'shutdown -P +358' 'shutdown -P now'
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
  assert_effects 'shutdown -P +360' 'shutdown -P +358' 'shutdown -P now'
}

@test "a machine that never came to bootstrap.sh, or whose bootstrap.sh told nothing, is told of; a topic that refuses holds nothing up" {
  local digest topic=arn:aws:sns:us-east-1:123456789012:ChronosTraining
  upload_scripts
  render "[\"topic_arn\", \"$topic\"]"
  aws_plan "sns publish --topic-arn $topic --subject Chronos dev $RUN: the machine went off early *" --error AuthorizationError
  start_machine
  assert_failure
  assert_equal "$(tail -n 1 "$FAKE_AWS_DIR/effects")" 'shutdown -P now'
  put_object a-bucket cached-datasets/scripts/bootstrap.sh 'kill -KILL $$'
  digest=$(cd "$(object a-bucket cached-datasets/scripts)" && sha256sum bootstrap.sh lib/log.sh >MANIFEST.sha256 && sha256sum MANIFEST.sha256)
  render "[\"topic_arn\", \"$topic\"]" "[\"scripts_sha256\", \"${digest:0:64}\"]"
  aws_plan 'sns publish *' --out '{}'
  start_machine
  assert_equal "$(tail -n 1 "$FAKE_AWS_DIR/effects")" 'shutdown -P now'
}

@test "it powers off also when the kernel lets it begin no process any more" {
  local digest pids="/sys/fs/cgroup/pids/bats-$$"
  mkdir "$pids" 2>/dev/null || skip "it takes root, and a pids cgroup"
  upload_scripts
  # shellcheck disable=SC2016  # expanded when it runs
  put_object a-bucket cached-datasets/scripts/bootstrap.sh "echo 0 >$pids/pids.max; echo "'$PPID'" >$pids/cgroup.procs; exit 1"
  digest=$(cd "$(object a-bucket cached-datasets/scripts)" && sha256sum bootstrap.sh lib/log.sh >MANIFEST.sha256 && sha256sum MANIFEST.sha256)
  render '["topic_arn", "arn:aws:sns:us-east-1:123456789012:ChronosTraining"]' "[\"scripts_sha256\", \"${digest:0:64}\"]"
  start_machine
  rmdir "$pids"
  assert_regex "$stderr" 'fork: '
  assert_effects 'shutdown -P +360' 'shutdown -P +358' 'shutdown -P now'
}

@test "an end that bootstrap.sh has told is not told again" {
  local digest
  digest=$(upload_scripts)
  render "[\"scripts_sha256\", \"$digest\"]" '["topic_arn", "arn:aws:sns:us-east-1:123456789012:ChronosTraining"]'
  mkdir -p "$CHRONOS_ROOT/opt/chronos"
  : >"$CHRONOS_ROOT/opt/chronos/told"
  start_machine
  assert_success
  refute_called 'sns *'
}

@test "a dead man's switch that cannot be armed powers the machine off: it would bill without a limit" {
  render
  FAKE_SHUTDOWN_FAILS=1 start_machine
  assert_failure
  assert_effects 'shutdown -P +360' 'shutdown -P now'
}

@test "a switch that cannot be written for the next boot powers the machine off" {
  render
  mkdir -p "${switch%/*/*}"
  touch "${switch%/*}"
  start_machine
  assert_failure
  assert_effects 'shutdown -P +360' 'shutdown -P now'
}

@test "the switch is on the disk before anything is fetched" {
  render
  # shellcheck disable=SC2016  # expanded when the call is made
  aws_plan 's3 cp *' --before '[[ -x $CHRONOS_ROOT/var/lib/cloud/scripts/per-boot/00-chronos-switch ]] && echo armed >>"$FAKE_AWS_DIR/effects"' \
    --silence --times 6
  start_machine
  assert_effects 'shutdown -P +360' 'shutdown -P +358' armed armed armed armed armed armed 'shutdown -P now'
}

# Leaves the switch on the disk as the first boot does, and nothing else of it. [minutes of life]
first_boot() {
  local text="$BATS_FILE_TMPDIR/user_data"
  if [[ ! -f user_data && ! -f $text ]]; then
    render
    mv user_data "$text"
  fi
  if [[ ! -f user_data ]]; then cp "$text" user_data; fi
  cp user_data "$CHRONOS_ROOT/var/lib/cloud/instance/user-data.txt"
  mkdir -p "${switch%/*}"
  sed -n "/<<'SWITCH'/,/^SWITCH\$/p" user_data | sed "1d; \$d; s/minutes=360\$/minutes=${1:-360}/" >"$switch"
  chmod +x "$switch"
}

@test "the switch is clean to shellcheck" {
  first_boot
  run -0 "$repository/.venv/bin/shellcheck" --norc "$switch"
}

@test "after a restart the switch is armed again: to the deadline, and a quarter of an hour at most" {
  first_boot
  fake_clock 2025-01-15T20:25:00Z # five minutes and 22 seconds are left
  run_switch
  assert_effects 'shutdown -P +6'
  fake_clock 2025-01-15T16:00:00Z
  run_switch
  assert_effects 'shutdown -P +6' 'shutdown -P +15'
}

@test "a machine that is kept after failures is kept as long after a restart" {
  render '["keep_on_failure_minutes", 60]'
  first_boot
  fake_clock 2025-01-15T16:00:00Z
  run_switch
  assert_effects 'shutdown -P +75'
}

@test "a deadline that is past after a restart powers off at once" {
  first_boot
  fake_clock 2025-01-15T20:30:22Z
  run_switch
  assert_effects 'shutdown -P now' 'shutdown -P now' # the switch itself, and its count-down
}

@test "a last second is a minute: shutdown knows no shorter time" {
  first_boot
  fake_clock 2025-01-15T20:30:21Z
  run_switch
  assert_effects 'shutdown -P +1'
}

@test "a clock that has jumped back does not extend the deadline: minutes of life are counted, over restarts" {
  first_boot 5
  fake_clock 1970-01-01T00:00:00Z
  FAKE_MINUTES=4 run_switch first
  assert_effects 'shutdown -P +5'
  FAKE_MINUTES=2 run_switch # a fifth minute has begun by then, and passes
  assert_effects 'shutdown -P +5' 'shutdown -P +1' 'shutdown -P now'
}

@test "the count-down powers off though the scheduled shutdown was cancelled, and tries again when that fails" {
  first_boot 2
  FAKE_SHUTDOWN_FAILS=1 FAKE_MINUTES=5 run_switch first || true
  assert_effects 'shutdown -P +2' 'shutdown -P now' 'shutdown -P now' 'shutdown -P now'
}

@test "a clock that has jumped ahead ends the machine early" {
  first_boot
  run_switch first
  fake_clock 2030-01-01T00:00:00Z
  FAKE_MINUTES=1 run_switch
  assert_equal "$(sort -u "$FAKE_AWS_DIR/effects" | tr '\n' ' ')" 'shutdown -P +358 shutdown -P now '
}

@test "a disk that cannot be written to does not stop the count-down" {
  first_boot 2
  mkdir "$CHRONOS_ROOT/var/lib/chronos-minutes" # nothing can be appended to it
  fake_clock 1970-01-01T00:00:00Z
  FAKE_MINUTES=3 run_switch first
  assert_effects 'shutdown -P +2' 'shutdown -P now'
}

@test "a machine made from an image of this one is left alone by its switch" {
  first_boot
  printf 'CHRONOS_RUN_ID=2025-01-20-000000 ' >"$CHRONOS_ROOT/var/lib/cloud/instance/user-data.txt"
  fake_clock 2030-01-01T00:00:00Z
  run_switch
  assert_effects
}
