#!/usr/bin/env bats
# shell/bootstrap.sh: eight phases in order; however it ends, the record is finished and the machine powers off.
# shellcheck disable=SC2154,SC2030,SC2031  # variables of the helpers; a test is a subshell
bats_require_minimum_version 1.5.0
load helpers/common

readonly RUN=2025-01-15-143022 CONFIG='trainer: test'

setup() {
  common_setup
  use_fake_s3 a-bucket
  be_an_instance "$RUN"
  install_scripts
  upload_environment
  set_variables
  put_state initialization launch "$RUN" null
  put_run_record "$RUN"
  put_object a-bucket "dev/$RUN/config.yaml" "$CONFIG"
  export FAKE_PYTHON="$work/python"
  mkdir "$FAKE_PYTHON"
}

teardown() {
  local pid
  if [[ -n ${boot_pid:-} ]]; then
    for pid in $(pgrep -s "$boot_pid"); do kill -KILL "$pid" 2>/dev/null || true; done
  fi
  common_teardown
}

be_an_instance() {
  export FAKE_IMDS="$work/imds"
  mkdir -p "$FAKE_IMDS/meta-data/tags/instance"
  printf 'i-0abc' >"$FAKE_IMDS/meta-data/instance-id"
  printf 'on-demand' >"$FAKE_IMDS/meta-data/instance-life-cycle"
  printf '%s' "$1" >"$FAKE_IMDS/meta-data/tags/instance/RunId"
}

# The scripts as user data leaves them on the machine's disk.
install_scripts() {
  export CHRONOS_ROOT="$work/the disk"
  scripts="$CHRONOS_ROOT/opt/chronos/scripts"
  mkdir -p "$scripts/chronos_ec2/state"
  cp -r "$shell_under_test/." "$scripts/"
  cp "$repository/python/chronos_ec2/state/state_machine.json" "$scripts/chronos_ec2/state/"
  cp "$repository/python/chronos_ec2/pieces_digest.py" "$scripts/chronos_ec2/"
}

upload_environment() {
  mkdir -p venv/bin
  cp "$helpers/fake_python.bash" venv/bin/python3
  mkdir -p "$(object a-bucket cached-datasets/python-env)"
  tar -czf "$(object a-bucket cached-datasets/python-env/venv.tar.gz)" -C venv bin
}

set_variables() {
  export CHRONOS_RUN_ID=$RUN CHRONOS_ENV=dev CHRONOS_BUCKET=a-bucket CHRONOS_ACCELERATOR=cuda
  export CHRONOS_DEADLINE CHRONOS_DEADLINE_MINUTES=360
  CHRONOS_DEADLINE=$(date -u -d '6 hours' +%Y-%m-%dT%H:%M:%SZ)
  export CHRONOS_ENVIRONMENT_ARCHIVE=venv.tar.gz CHRONOS_ENVIRONMENT_PIECES_SHA256 CHRONOS_DATASET_SHA256=dddd CHRONOS_CONFIG_SHA256
  CHRONOS_CONFIG_SHA256=$(printf %s "$CONFIG" | sha256sum | cut -d' ' -f1)
  CHRONOS_ENVIRONMENT_PIECES_SHA256=$(sha256sum <"$(object a-bucket cached-datasets/python-env/venv.tar.gz)" | cut -d' ' -f1 | sha256sum | cut -d' ' -f1)
  export CHRONOS_MIN_FREE_DISK_GB=20 CHRONOS_HEARTBEAT_SECONDS=60 CHRONOS_LOG_UPLOAD_SECONDS=600
  export CHRONOS_KILL_GRACE_SECONDS=1 CHRONOS_KEEP_ON_FAILURE_MINUTES=0
}

# What a program of the training environment does. <program> <snippet>
program_does() { printf '%s\n' "$2" >"$FAKE_PYTHON/$1"; }

plan_cli() { aws_plan 's3api copy-object --generate-cli-skeleton input' --out '{"IfMatch":"","IfNoneMatch":""}'; }
plan_terminate() { aws_plan 'ec2 terminate-instances --instance-ids i-0abc' --out '{}'; }

# Gives the run a topic and calls it stale at once; what SNS takes is noted in `told`, but for the end.
be_told() {
  export CHRONOS_TOPIC_ARN=arn:aws:sns:us-east-1:123456789012:ChronosTraining CHRONOS_STALE_MINUTES=0
  : >"$FAKE_AWS_DIR/told"
  # shellcheck disable=SC2016  # the fake expands it
  aws_plan 'sns publish * training has begun*' --out '{}' --before 'echo start >>"$FAKE_AWS_DIR/told"'
  # shellcheck disable=SC2016  # the fake expands it
  aws_plan 'sns publish * no progress for 0 minutes*' --out '{}' --before 'echo stall >>"$FAKE_AWS_DIR/told"'
  aws_plan 'sns publish * failed at training*' --out '{}'
}

# Starts bootstrap.sh in a session of its own; sets boot_pid.
start_boot() {
  setsid bash "$scripts/bootstrap.sh" >"$work/console" 2>&1 3>&- &
  boot_pid=$!
}

# Runs bootstrap.sh to its end; sets boot_status.
boot() {
  start_boot
  finish_boot
}

finish_boot() {
  boot_status=0
  wait "$boot_pid" || boot_status=$?
}

# Waits until a file is there. <file>
wait_for() {
  local attempt
  for ((attempt = 0; attempt < 1200; attempt++)); do
    if [[ -e $1 ]]; then return 0; fi
    sleep 0.05
  done
  fail "$1 never came; the console says:"$'\n'"$(<"$work/console")"
}

# The end that every run has, in this order and with nothing after it.
assert_clean_end() {
  local effects end
  # The report goes up beside the last of the log: the order of these two is nobody's.
  effects=$(grep -v -e /notices/ -e '/report.html$' "$FAKE_AWS_DIR/effects")
  end="put-object logs/$RUN/phase_logs.json
put-object dev/$RUN/run.json if-match
put-object dev/$RUN/logs/bootstrap.log
delete-object dev/system-state.json if-match
terminate-instances
shutdown -P now"
  assert_equal "$(tail -n 6 <<<"$effects")" "$end"
  assert_equal "$(grep -c '^shutdown -P +' <<<"$effects")" 1
  assert_equal "$(state_now)" ''
  assert_equal "$(tail -n 1 "$(object a-bucket "dev/$RUN/logs/bootstrap.log")" | cut -d' ' -f2-)" \
    "INFO  end of the log of run $RUN"
  assert_no_process_left
}

# Nothing of the script's session runs on; a process that is dead but not waited for does not count.
assert_no_process_left() {
  local attempt left
  for ((attempt = 0; attempt < 20; attempt++)); do
    left=$(pgrep -a -s "$boot_pid" -r D,R,S,T || true)
    if [[ -z $left ]]; then return 0; fi
    sleep 0.1
  done
  fail "still running: $left"
}

# <phase> <exit code> <regular expression of the error>
assert_failed_run() {
  local record log
  assert_clean_end
  record=$(run_record_now)
  assert_json "$record" '"\(.outcome) \(.failed_step) \(.exit_code) \(.phases[-2:] | map("\(.name)=\(.outcome)") | join(" "))"' \
    "failed $1 $2 $1=failed cleanup=ok"
  assert_regex "$(jq -r .error <<<"$record")" "$3"
  assert_equal "$boot_status" "$2"
  run -0 published
  assert_line --index "$((${#lines[@]} - 2))" "failed $1"
  assert_line --index "$((${#lines[@]} - 1))" 'cleanup cleanup'
  log=$(cat "$(object a-bucket "dev/$RUN/logs/bootstrap.log")")
  assert_regex "$log" "phase $1 failed \(exit code $2\)"
}

# -- refusing ------------------------------------------------------------------------------------------------------------

@test "--help prints the script's header" {
  run --separate-stderr -0 bash "$scripts/bootstrap.sh" --help
  assert_line --index 0 --partial 'Trains on the rented instance'
}

@test "--dry-run prints the eight phases in order and changes nothing" {
  run --separate-stderr -0 bash "$scripts/bootstrap.sh" --dry-run
  assert_equal "$(cut -d' ' -f1 <<<"$output" | tr '\n' ' ')" \
    'initialization system_setup venv_download gpu_preflight data_sync training results_sync cleanup '
  refute_called '*'
  assert_effects
}

@test "an unknown argument is exit code 2" {
  run --separate-stderr -2 bash "$scripts/bootstrap.sh" --force
  assert_effects
}

@test "every variable that user data sets is asked for by name: exit code 2, nothing touched" {
  local name
  for name in RUN_ID ENV BUCKET DEADLINE ACCELERATOR ENVIRONMENT_ARCHIVE ENVIRONMENT_PIECES_SHA256 CONFIG_SHA256 DATASET_SHA256 DEADLINE_MINUTES \
    MIN_FREE_DISK_GB HEARTBEAT_SECONDS LOG_UPLOAD_SECONDS KILL_GRACE_SECONDS KEEP_ON_FAILURE_MINUTES; do
    run --separate-stderr -2 env -u "CHRONOS_$name" bash "$scripts/bootstrap.sh"
    assert_regex "$stderr" "CHRONOS_$name is not set"
  done
  refute_called '*'
  assert_effects
}

@test "a number that is none is exit code 2: the end of the run must be able to count with it" {
  CHRONOS_KEEP_ON_FAILURE_MINUTES=soon run --separate-stderr -2 bash "$scripts/bootstrap.sh"
  assert_regex "$stderr" "CHRONOS_KEEP_ON_FAILURE_MINUTES is not a whole number: 'soon'"
  assert_effects
}

@test "refuses where no metadata service answers: exit code 25, no call, no power-off" {
  fake_sleep
  unset FAKE_IMDS
  run --separate-stderr -25 bash "$scripts/bootstrap.sh"
  assert_regex "$stderr" 'not an EC2 instance, nothing was done'
  refute_called '*'
  assert_effects
  assert_json "$(state_now)" .current_step launch
}

@test "refuses on an instance of another run: exit code 25, no call, no power-off" {
  be_an_instance 2025-01-20-000000
  run --separate-stderr -25 bash "$scripts/bootstrap.sh"
  assert_regex "$stderr" 'was not launched for run'
  refute_called '*'
  assert_effects
}

# -- a good run -------------------------------------------------------------------------------------------------------------

@test "the log begins with what cloud-init and the user data have said before, marked" {
  plan_cli
  plan_terminate
  mkdir -p "$CHRONOS_ROOT/var/log"
  printf 'Cloud-init v. 24.1\nuser data: fetched\n' >"$CHRONOS_ROOT/var/log/cloud-init-output.log"
  boot
  run -0 head -n 2 "$(object a-bucket "dev/$RUN/logs/bootstrap.log")"
  assert_output $'cloud-init| Cloud-init v. 24.1\ncloud-init| user data: fetched'
  run ! grep -q 'cloud-init|' "$work/console"
}

@test "a report that cannot be made costs the run nothing but the report" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it
  program_does report 'echo "report: no room" >&2; exit 1'
  boot
  assert_equal "$boot_status" 0
  assert_clean_end
  assert_json "$(run_record_now)" .outcome succeeded
  assert [ ! -e "$(object a-bucket "dev/$RUN/report.html")" ]
  run -0 grep 'report.html is missing' "$work/console"
  assert_output --partial 'invoke report makes it): report: no room'
}

@test "a good run goes through the phases in order, finishes its record, frees the environment and powers off" {
  local record logs
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it
  program_does training 'printf "{\"metrics\": {\"WQL\": 0.1}, \"baselines\": {\"seasonal_naive\": {\"WQL\": 0.2}}, \"timeline\": {\"first_step\": \"2025-01-15T14:31:00.000Z\", \"last_step\": \"2025-01-15T14:32:00.000Z\"}}" >"$CHRONOS_ROOT/data/output/training.json"'
  boot
  assert_equal "$boot_status" 0
  assert_clean_end
  assert_equal "$(published '"\(.status) \(.current_step) \(.instance_id)"')" "initialization initialization i-0abc
initialization system_setup i-0abc
initialization venv_download i-0abc
initialization gpu_preflight i-0abc
data_sync data_sync i-0abc
training training i-0abc
results_sync results_sync i-0abc
cleanup cleanup i-0abc"
  record=$(run_record_now)
  assert_json "$record" '"\(.outcome) \(.failed_step) \(.error) \(.exit_code) \(.instance.id) \(.instance.type)"' \
    'succeeded null null 0 i-0abc g4dn.2xlarge'
  assert_json "$record" '"\(.environment_archive.used)"' tar.gz
  assert_json "$record" '"\(.metrics.WQL) \(.metrics.baselines.seasonal_naive.WQL)"' '0.1 0.2'
  assert_equal "$(<"$(object a-bucket "dev/$RUN/report.html")")" 'a page'
  assert_json "$(<"$CHRONOS_ROOT/data/output/run.json")" .outcome succeeded
  assert [ -s "$CHRONOS_ROOT/data/output/preflight.json" ] && assert [ -s "$CHRONOS_ROOT/data/output/config.yaml" ]
  # 10 states at 2 PUT each, the looks for a kill, the archive and the scripts: counted, not guessed.
  assert_json "$record" '.requests | .put >= 20 and .get >= 10' true
  logs=$(cat "$(object a-bucket "logs/$RUN/phase_logs.json")")
  assert_json "$logs" '"\(.run_id) \(.phases | map("\(.name)=\(.outcome)") | join(" "))"' \
    "$RUN initialization=ok system_setup=ok venv_download=ok gpu_preflight=ok data_sync=ok training=ok results_sync=ok cleanup=ok"
  assert_json "$logs" '.timeline | keys_unsorted - ["first_step", "last_step"] | join(" ")' \
    'power_off results_safe data_ready preflight_passed environment_ready'
  assert_equal "$(jq -c .timeline <<<"$logs")" "$(jq -c .timeline <<<"$record")"
  assert_json "$logs" .timeline.last_step 2025-01-15T14:32:00.000Z
  assert_json "$logs" '[.phases[] | .seconds >= 0 and (.started_at | test("^20.*Z$"))] | all' true
  # The data come beside preflight: which of the two is noted first is nobody's.
  assert_equal "$(cut -d' ' -f1 "$FAKE_PYTHON/calls" | sed 's/^preflight\|^data_sync/beside/' | tr '\n' ' ')" \
    'version beside beside training results_sync '
  run -0 cat "$FAKE_PYTHON/calls"
  assert_line --partial "preflight_check.py --accelerator cuda --min-free-disk-gb 20 --path $CHRONOS_ROOT/data --json"
  assert_line --partial "training_wrapper.py --config $CHRONOS_ROOT/data/config.yaml --data $CHRONOS_ROOT/data/training-data --output $CHRONOS_ROOT/data/output --bucket a-bucket --env dev --run-id $RUN"
  assert_line --partial '--prefix cached-datasets/training-data/ --manifest-sha256 dddd --into'
  assert_called 1 ec2 terminate-instances --instance-ids i-0abc
  assert [ -f "$(object a-bucket "dev/$RUN/preflight.json")" ]
}

# -- a failure in each phase ---------------------------------------------------------------------------------------------------

@test "initialization: a CLI without conditional copies" {
  aws_plan 's3api copy-object --generate-cli-skeleton input' --out '{}'
  aws_plan '--version' --out 'aws-cli/2.0.0'
  plan_terminate
  boot
  assert_failed_run initialization 23 'phase initialization ended with exit code 23'
}

@test "initialization: a tool that the AMI lacks is named" {
  local poor="$work/poor tools"
  cp -d -r "$(toolbox)" "$poor"
  rm "$poor/gzip"
  plan_terminate
  PATH="$helpers/bin:$poor" boot
  assert_failed_run initialization 1 'the AMI lacks gzip'
}

@test "initialization: a tool that is not GNU's is named, with what it does not know" {
  local poor tool
  for tool in 'date -d @0' 'dd if=/dev/null' 'find / -maxdepth 0' 'stat -c %s /'; do
    poor="$work/with another ${tool%% *}"
    cp -d -r "$(toolbox)" "$poor"
    ln -sf "$helpers/bsd_tool.bash" "$poor/${tool%% *}"
    # shellcheck disable=SC2016  # for that Bash
    PATH="$helpers/bin:$poor" run -1 bash -c 'source "$1/lib/phases.sh"; require_instance_tools' _ "$scripts"
    assert_output --partial "the AMI lacks a ${tool%% *} that knows: $tool"
  done
}

@test "initialization: a python3 that cannot make a digest is named before anything is fetched" {
  local poor="$work/an old python"
  cp -d -r "$(toolbox)" "$poor"
  printf '#!/usr/bin/env bash\necho "SyntaxError: future feature annotations is not defined" >&2\nexit 1\n' >"$work/old"
  chmod +x "$work/old"
  ln -sf "$work/old" "$poor/python3"
  # shellcheck disable=SC2016  # for that Bash
  PATH="$helpers/bin:$poor" run -1 bash -c 'source "$1/lib/phases.sh"; require_instance_tools' _ "$scripts"
  assert_output --partial "the AMI's python3, which checks the environment before there is another, is not 3.7 or newer"
}

@test "system_setup: a disk that takes no folders" {
  plan_cli
  plan_terminate
  : >"$CHRONOS_ROOT/data"
  boot
  assert_failed_run system_setup 1 'the folders for the run could not be made'
}

@test "venv_download: an environment that is not in the bucket" {
  plan_cli
  plan_terminate
  rm "$(object a-bucket cached-datasets/python-env/venv.tar.gz)"
  boot
  assert_failed_run venv_download 1 's3://a-bucket/cached-datasets/python-env/venv.tar.gz could not be downloaded'
}

@test "venv_download: an environment with a wrong digest is never unpacked" {
  plan_cli
  plan_terminate
  printf 'x' >>"$(object a-bucket cached-datasets/python-env/venv.tar.gz)"
  boot
  assert_failed_run venv_download 1 'corrupt, or another was uploaded since the launch .*: launch again; .*run invoke build-env'
  assert [ ! -e "$CHRONOS_ROOT/opt/chronos/venv/bin" ]
}

@test "venv_download: an environment whose Python does not run" {
  plan_cli
  plan_terminate
  program_does version 'exit 127'
  boot
  assert_failed_run venv_download 1 'Python does not run on this AMI'
}

@test "gpu_preflight: every failed check is in the error, and the report is uploaded" {
  plan_cli
  plan_terminate
  program_does preflight 'printf "%s" "{\"checks\":[{\"name\":\"driver\",\"ok\":false,\"detail\":\"no nvidia-smi\",\"remedy\":\"another AMI\"},
    {\"name\":\"disk\",\"ok\":false,\"detail\":\"3 GB free\",\"remedy\":\"volume_gb\"}]}"; exit 1'
  boot
  assert_failed_run gpu_preflight 1 'preflight: driver: no nvidia-smi; disk: 3 GB free'
  assert_regex "$(cat "$(object a-bucket "dev/$RUN/preflight.json")")" 'no nvidia-smi'
}

@test "gpu_preflight: a check that crashes without a report still fails the run" {
  plan_cli
  plan_terminate
  program_does preflight 'exit 139'
  program_does data_sync 'while true; do sleep 0.05; done' # goes on behind it, and ends with it
  boot
  assert_failed_run gpu_preflight 1 'preflight: exit 139'
}

@test "data_sync: data that cannot be fetched; training never starts" {
  plan_cli
  plan_terminate
  program_does data_sync 'exit 19' # while preflight goes on, which passes first
  program_does preflight "sleep 0.3; printf '{\"ok\": true, \"checks\": []}'"
  boot
  assert_failed_run data_sync 1 'the training data could not be fetched'
  run ! grep -q '^training' "$FAKE_PYTHON/calls"
}

@test "data_sync: a config that is not the launch's is never used, and the error says what to do" {
  plan_cli
  plan_terminate
  put_object a-bucket "dev/$RUN/config.yaml" 'trainer: command'
  boot
  assert_failed_run data_sync 1 "^s3://a-bucket/dev/$RUN/config.yaml is not what this run was launched with .*; see who may write to the bucket, then launch again\$"
  run ! grep -q '^training' "$FAKE_PYTHON/calls"
  assert [ ! -e "$CHRONOS_ROOT/data/config.yaml" ]
  assert [ ! -e "$CHRONOS_ROOT/data/output/config.yaml" ]
}

@test "training: the trainer's exit code and its own error reach the record, and what it made is uploaded" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it
  program_does training 'while (($(wc -l <"$FAKE_AWS_DIR/told") < 2)); do sleep 0.05; done
    touch "$TMPDIR/scratch"; printf "{\"error\": \"out of memory\"}" >"$CHRONOS_ROOT/data/output/training.json"; exit 3'
  be_told
  boot
  assert_failed_run training 3 '^out of memory$'
  assert [ -e "$CHRONOS_ROOT/data/tmp/scratch" ]
  assert_equal "$(tail -n 1 "$FAKE_PYTHON/calls" | cut -d' ' -f1)" results_sync
  # The topic was told when nothing moved (for no minutes, in this test), when training began, and of the end.
  run -0 grep -E 'notices|run.json' "$FAKE_AWS_DIR/effects"
  assert_equal "$(tail -n 2 <<<"$output")" "put-object dev/$RUN/run.json if-match
put-object dev/$RUN/notices/end.json if-none-match=*"
  assert_equal "$(sort "$FAKE_AWS_DIR/told")" $'stall\nstart'
  assert_regex "$(jq -r .message "$(object a-bucket "dev/$RUN/notices/end.json")")" 'error +out of memory'
}

@test "results_sync: results that cannot be uploaded are tried once more" {
  plan_cli
  plan_terminate
  program_does results_sync 'exit 15'
  boot
  assert_failed_run results_sync 1 'the results could not be uploaded'
  assert_equal "$(grep -c '^results_sync' "$FAKE_PYTHON/calls")" 2
}

# -- spot machines, and runs that go on from another -----------------------------------------------------------------------------

# The machine is a spot machine; its metadata service is asked without pause.
be_spot() {
  printf 'spot' >"$FAKE_IMDS/meta-data/instance-life-cycle"
  mkdir -p "$FAKE_IMDS/meta-data/spot"
  sed -i 's/^readonly INTERRUPTION_LOOK_SECONDS=5$/readonly INTERRUPTION_LOOK_SECONDS=0.1/' "$scripts/lib/interruption.sh"
}

# A snippet: EC2 announces that it takes the machine back in two minutes.
announce() {
  # shellcheck disable=SC2016  # the fake expands it
  printf '%s\n' 'printf "{\"action\": \"terminate\", \"time\": \"%(%Y-%m-%dT%H:%M:%SZ)T\"}" $((EPOCHSECONDS + 120)) >"$FAKE_IMDS/new"' \
    'mv "$FAKE_IMDS/new" "$FAKE_IMDS/meta-data/spot/instance-action"'
}

# The run goes on from another. <run id>
go_on_from() { export CHRONOS_RESUME_FROM=$1; }

@test "an interruption in training: the trainer saves and stops, the checkpoint goes first, the record says where to go on" {
  local record
  plan_cli
  plan_terminate
  be_spot
  # shellcheck disable=SC2016  # the fake expands it
  program_does training "$(announce)"'
    trap "printf \"{\\\"last_step\\\": 7}\" >\"\$CHRONOS_ROOT/data/output/training.json\"; exit 75" TERM; while true; do sleep 0.05; done'
  # shellcheck disable=SC2016  # the fake expands it
  program_does results_sync 'mkdir -p "$CHRONOS_ROOT/data/output/checkpoints"
    printf "{\"step\": 7}" >"$CHRONOS_ROOT/data/output/checkpoints/.tmp-saved.json"
    jq -r .status "$FAKE_AWS_DIR/s3/a-bucket/dev/system-state.json" >"$FAKE_PYTHON/status when saving"'
  boot
  assert_equal "$boot_status" 143
  assert_clean_end
  record=$(run_record_now)
  assert_json "$record" '"\(.outcome) \(.failed_step) \(.interrupted_at_step) \(.checkpoint_step)"' 'interrupted training 7 7'
  assert_regex "$(jq -r .error <<<"$record")" "^interrupted: EC2 takes .* at step 7; the checkpoint of step 7 .* --env dev --resume $RUN\$"
  assert_equal "$(published | tail -n 2)" $'failed training\ncleanup cleanup'
  assert_equal "$(jq -r .error_message <<<"$(tail -n 1 "$FAKE_AWS_DIR/published")")" "$(jq -r .error <<<"$record")"
  assert_equal "$(<"$FAKE_PYTHON/status when saving")" training
  assert_regex "$(<"$FAKE_PYTHON/beside-checkpoint_sync")" "checkpoint_sync --bucket a-bucket --prefix dev/$RUN/ --from $CHRONOS_ROOT/data/output\$"
}

@test "shortly before the deadline the trainer saves and stops, what it made goes first, the record says where to go on" {
  local record
  plan_cli
  plan_terminate
  export CHRONOS_KEEP_ON_FAILURE_MINUTES=10
  sed -i 's/^readonly LONGEST_LOOK=30$/readonly LONGEST_LOOK=1/' "$scripts/lib/deadline.sh"
  # The clock shows a minute before the deadline once the training has begun.
  mkdir clock
  # shellcheck disable=SC2016  # a script's text
  printf '%s\n' '#!/usr/bin/env bash' 'if [[ $* == +%s && -e $FAKE_PYTHON/late ]]; then exec '"'$(toolbox)/date'"' -d "$CHRONOS_DEADLINE 60 seconds ago" +%s; fi' \
    "exec '$(toolbox)/date' \"\$@\"" >clock/date
  chmod +x clock/date
  # shellcheck disable=SC2016  # the fake expands it
  program_does training ': >"$FAKE_PYTHON/late"
    trap "printf \"{\\\"last_step\\\": 7}\" >\"\$CHRONOS_ROOT/data/output/training.json\"; exit 75" TERM; while true; do sleep 0.05; done'
  # shellcheck disable=SC2016  # the fake expands it
  program_does results_sync 'mkdir -p "$CHRONOS_ROOT/data/output/checkpoints"
    printf "{\"step\": 7}" >"$CHRONOS_ROOT/data/output/checkpoints/.tmp-saved.json"
    jq -r .status "$FAKE_AWS_DIR/s3/a-bucket/dev/system-state.json" >"$FAKE_PYTHON/status when saving"'
  PATH="$work/clock:$PATH" boot
  assert_equal "$boot_status" 143
  assert_clean_end
  record=$(run_record_now)
  assert_json "$record" '"\(.outcome) \(.failed_step) \(.checkpoint_step) \(.exit_code)"' 'failed training 7 143'
  assert_regex "$(jq -r .error <<<"$record")" "^deadline reached: .* at step 7, to save; the checkpoint of step 7 .* --env dev --resume $RUN\$"
  assert_equal "$(published | tail -n 2)" $'failed training\ncleanup cleanup'
  assert_equal "$(<"$FAKE_PYTHON/status when saving")" training
  # The switch was brought forward, never put off; nothing is kept past it.
  assert_equal "$(grep -c '^shutdown -P +1$' "$FAKE_AWS_DIR/effects")" 1
  run ! grep -q KEPT console
}

@test "an interruption of a training whose loss is no number is a failure, and nobody is told to go on from it" {
  local record
  plan_cli
  plan_terminate
  be_spot
  # shellcheck disable=SC2016  # the fake expands it
  program_does training "$(announce)"'
    trap "printf \"{\\\"last_step\\\": 7, \\\"bad_loss\\\": \\\"loss is nan at step_7\\\"}\" >\"\$CHRONOS_ROOT/data/output/training.json\"; exit 1" TERM
    while true; do sleep 0.05; done'
  # shellcheck disable=SC2016  # the fake expands it
  program_does results_sync 'mkdir -p "$CHRONOS_ROOT/data/output/checkpoints"
    printf "{\"step\": 7}" >"$CHRONOS_ROOT/data/output/checkpoints/.tmp-saved.json"'
  CHRONOS_KEEP_ON_FAILURE_MINUTES=30 boot
  assert_clean_end
  record=$(run_record_now)
  assert_json "$record" '"\(.outcome) \(.failed_step) \(.checkpoint_step) \(.error)"' \
    'failed training 7 the training had failed before it was asked to end: loss is nan at step_7'
}

@test "an interruption before training ends the run there, and there is nothing to go on from" {
  plan_cli
  plan_terminate
  be_spot
  # It has begun behind preflight: the notice comes when its own phase has.
  program_does data_sync "while ! tail -n 1 '$FAKE_AWS_DIR/published' | grep -q '\"status\": *\"data_sync\"'; do sleep 0.05; done
    $(announce)
    while true; do sleep 0.05; done"
  boot
  assert_clean_end
  assert_json "$(run_record_now)" '"\(.outcome) \(.failed_step) \(.interrupted_at_step) \(.checkpoint_step)"' \
    'interrupted data_sync null null'
  assert_regex "$(run_record_now | jq -r .error)" 'in phase data_sync; there is no checkpoint yet'
  run ! grep -q results_sync "$FAKE_PYTHON/calls"
}

@test "a run that goes on from another fetches its checkpoint before training, and says the step" {
  plan_cli
  plan_terminate
  go_on_from 2025-01-14-000000
  program_does checkpoint_restore 'echo 40'
  # shellcheck disable=SC2016  # the fake expands it
  program_does training 'printf "{\"resume_from\": \"2025-01-14-000000\", \"resumed_from_step\": 40}" >"$CHRONOS_ROOT/data/output/training.json"; exit 3'
  boot
  assert_failed_run training 3 'exit code 3'
  assert_json "$(run_record_now)" .resumed_from_step 40
  assert_equal "$(cut -d' ' -f1 "$FAKE_PYTHON/calls" | sed 's/^preflight\|^data_sync\|^checkpoint_restore/beside/' | tr '\n' ' ')" \
    'version beside beside beside training results_sync '
  run -0 grep checkpoint_restore "$FAKE_PYTHON/calls"
  assert_output --partial "--bucket a-bucket --prefix dev/2025-01-14-000000/ --into $CHRONOS_ROOT/data/output/checkpoints"
}

@test "a checkpoint that cannot be fetched or does not verify fails the run before training" {
  plan_cli
  plan_terminate
  go_on_from 2025-01-14-000000
  program_does checkpoint_restore 'exit 1'
  boot
  assert_failed_run data_sync 1 'run 2025-01-14-000000 has no checkpoint that could be fetched and verified'
  run ! grep -q '^training' "$FAKE_PYTHON/calls"
}

@test "a start model that cannot be fetched fails the run before training, at the step that waits for it" {
  plan_cli
  plan_terminate
  start_from s3://a-bucket/cached-datasets/models/0123
  program_does model_fetch 'exit 18'
  boot
  assert_failed_run data_sync 1 'the start model s3://a-bucket/cached-datasets/models/0123 could not be fetched or is none'
  run ! grep -q '^training' "$FAKE_PYTHON/calls"
}

# -- what goes on behind the phases ------------------------------------------------------------------------------------------------

start_from() { export CHRONOS_START_MODEL=$1; }

# A snippet: notes that a part has begun, and goes on when something is there. It gives up when that never comes, and notes it.
# <part> <command that tells>
begins_and_waits() {
  # shellcheck disable=SC2016  # the fake expands it
  printf 'touch "$FAKE_AWS_DIR/%s has begun"; for ((look = 0; look < 600; look++)); do if %s; then break; fi; sleep 0.1; done
    if ((look == 600)); then echo "%s has waited in vain" >>"$FAKE_AWS_DIR/vain"; fi\n' "$1" "$2" "$1"
}

# A snippet: a part goes on when the run has come to a step. <part> <step>
held_until() { begins_and_waits "$1" "grep -q '\"current_step\":\"$2\"' \"\$FAKE_AWS_DIR/published\" 2>/dev/null"; }

# A snippet: a call goes on when parts have begun. <call> <part…>
held_for() {
  local call=$1 part tells=true
  shift
  for part in "$@"; do tells+=" && [[ -e \$FAKE_AWS_DIR/$part\ has\ begun ]]"; done
  begins_and_waits "$call" "$tells"
}

@test "all parts begin as early as they can, and none is waited for before its own step" {
  local of_data=(data_sync model_fetch checkpoint_restore) part
  go_on_from 2025-01-14-000000
  start_from s3://a-bucket/cached-datasets/models/0123
  plan_terminate
  aws_plan 's3 cp * s3://a-bucket/cached-datasets/python-env/*' --pass --before "$(held_until environment venv_download)"
  aws_plan "s3 cp * s3://a-bucket/dev/$RUN/config.yaml *" --pass --before "$(held_until config data_sync)"
  program_does preflight "$(held_until preflight gpu_preflight); printf '{\"ok\": true, \"checks\": []}'"
  for part in "${of_data[@]}"; do program_does "$part" "$(held_until "$part" data_sync)"; done
  program_does checkpoint_restore "$(held_until checkpoint_restore data_sync); echo 40"
  aws_plan "s3api put-object *dev/$RUN/preflight.json *" --pass --before "$(held_until report data_sync)"
  # What comes from S3 alone begins before the first look at anything; what needs Python, before the next move of the state.
  aws_plan 's3api copy-object --generate-cli-skeleton input' --out '{"IfMatch":"","IfNoneMatch":""}' \
    --before "$(held_for look environment config)"
  # shellcheck disable=SC2016  # the fake expands it
  aws_plan 's3api put-object *system-state.json.tmp-*' --times any --pass \
    --before 'if (while [[ $1 != --body ]]; do shift; done; grep -q "\"current_step\":\"gpu_preflight\"" "$2"); then '"$(held_for move preflight "${of_data[@]}")"'; fi'
  boot
  assert_equal "$(cat "$FAKE_AWS_DIR/vain" 2>/dev/null)" ''
  assert_equal "$boot_status" 0
  assert_no_process_left
  assert [ -e "$FAKE_AWS_DIR/move has begun" ]
  assert_json "$(run_record_now)" '"\(.outcome) \(.resumed_from_step)"' 'succeeded 40'
}

@test "what could not be fetched behind the phases is fetched once more by the phase that waits for it" {
  local part
  plan_cli
  plan_terminate
  go_on_from 2025-01-14-000000
  start_from s3://a-bucket/cached-datasets/models/0123
  for part in cached-datasets/python-env/ "dev/$RUN/config.yaml"; do
    aws_plan "s3 cp * s3://a-bucket/$part*" --error SlowDown
    aws_plan "s3 cp * s3://a-bucket/$part*" --pass
  done
  for part in data_sync model_fetch checkpoint_restore; do
    program_does "$part" "if mkdir \"\$FAKE_PYTHON/$part began\" 2>/dev/null; then exit 1; fi; echo 40"
  done
  boot
  assert_equal "$boot_status" 0
  assert_clean_end
  assert_json "$(run_record_now)" '"\(.outcome) \(.resumed_from_step)"' 'succeeded 40'
  assert_equal "$(grep -c 'has come to nothing behind the phases; once more' "$(object a-bucket "dev/$RUN/logs/bootstrap.log")")" 5
}

@test "what goes on behind the phases ends with the run" {
  local part
  plan_cli
  plan_terminate
  go_on_from 2025-01-14-000000
  start_from s3://a-bucket/cached-datasets/models/0123
  # shellcheck disable=SC2016  # the fake expands it
  for part in data_sync model_fetch checkpoint_restore; do program_does "$part" 'echo >>"$FAKE_PYTHON/behind"; exec sleep 600'; done
  # shellcheck disable=SC2016  # the fake expands it
  program_does preflight 'until [[ $(wc -l <"$FAKE_PYTHON/behind") == 3 ]]; do sleep 0.1; done; exit 3'
  boot
  assert_failed_run gpu_preflight 1 '^preflight: exit 3$'
}

# -- the end of every run ---------------------------------------------------------------------------------------------------------

@test "an unset variable in a phase, which no ERR trap sees, reaches the end" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # a line for the script
  sed -i '/^phase_data_sync() {/a\  : "$no_such_variable"' "$scripts/lib/phases.sh"
  boot
  assert_clean_end
  assert_json "$(run_record_now)" '"\(.outcome) \(.failed_step)"' 'failed data_sync'
}

@test "a log whose writer is killed, and a console that nobody reads, keep no run from its end, nor its words from the log" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it; the session is the run's own
  program_does training 'echo "before the kill"
    while ! grep -q "^before the kill" "$CHRONOS_ROOT/var/log/chronos/bootstrap.log"; do sleep 0.05; done
    tee=$(pgrep -s 0 -x tee); kill -KILL "$tee"
    while kill -0 "$tee" 2>/dev/null; do sleep 0.05; done; echo "after the kill"'
  mkfifo "$work/nobody"
  exec 5<>"$work/nobody"
  setsid bash "$scripts/bootstrap.sh" >"$work/nobody" 2>&1 3>&- 5>&- &
  boot_pid=$!
  exec 5>&- # the console has no reader any more
  finish_boot
  assert_equal "$boot_status" 0
  assert_clean_end
  assert_json "$(run_record_now)" .outcome succeeded
  run -0 grep -E "the kill\$|the log's writer" "$(object a-bucket "dev/$RUN/logs/bootstrap.log")"
  assert_line 'before the kill'
  assert_line --partial "the log's writer was killed"
  assert_line 'after the kill'
}

@test "TERM in training stops the trainer gracefully, saves what it made, and powers off" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it
  program_does training 'trap "echo TERM >>\"\$FAKE_PYTHON/seen\"; exit 75" TERM; : >"$FAKE_PYTHON/started"; while true; do sleep 0.05; done'
  start_boot
  wait_for "$FAKE_PYTHON/started"
  kill -TERM "$boot_pid"
  finish_boot
  assert_failed_run training 143 'phase training ended with exit code 143'
  assert_equal "$(<"$FAKE_PYTHON/seen")" TERM
  assert_equal "$(tail -n 1 "$FAKE_PYTHON/calls" | cut -d' ' -f1)" results_sync
}

# Sends TERM to bootstrap.sh in training, just before it does something, once a file is there. <command> <file>
term_before() {
  export TERM_BEFORE=$1 TERM_ONCE=$2 BASH_ENV="$work/term-before"
  # shellcheck disable=SC2016  # bootstrap.sh expands it
  printf '%s\n' 'set -T' 'trap '\''if [[ ${phase:-} == training && $BASHPID == "$$" && $BASH_COMMAND == "$TERM_BEFORE" ]]; then
    while [[ ! -e $TERM_ONCE ]]; do sleep 0.05; done; kill -TERM $$; fi'\'' DEBUG' >"$BASH_ENV"
}

@test "TERM that comes between the trainer's start and its name stops the trainer as well" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it
  program_does training 'trap "echo TERM >>\"\$FAKE_PYTHON/seen\"; exit 75" TERM; : >"$FAKE_PYTHON/started"; while true; do sleep 0.05; done'
  # shellcheck disable=SC2016  # a command of bootstrap.sh
  term_before 'child_pid=$!' "$FAKE_PYTHON/started"
  boot
  assert_failed_run training 143 'phase training ended with exit code 143'
  assert_equal "$(<"$FAKE_PYTHON/seen")" TERM
}

@test "TERM that comes between the start of the checkpoints' upload and its name ends the upload as well" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # a command of bootstrap.sh
  term_before 'checkpoint_sync_pid=$!' "$FAKE_PYTHON/beside-checkpoint_sync"
  boot
  assert_failed_run training 143 'phase training ended with exit code 143'
}

@test "the notice of a start that is still on its way is waited for before the notice of the end" {
  plan_cli
  plan_terminate
  export CHRONOS_TOPIC_ARN=arn:aws:sns:us-east-1:123456789012:ChronosTraining
  # shellcheck disable=SC2016  # the fake expands it
  aws_plan 'sns publish * training has begun*' --out '{}' --before 'sleep 1; echo start >>"$FAKE_AWS_DIR/told"'
  # shellcheck disable=SC2016  # the fake expands it
  aws_plan 'sns publish * failed at training*' --out '{}' --before 'echo end >>"$FAKE_AWS_DIR/told"'
  program_does training 'exit 3'
  boot
  assert_failed_run training 3 'training ended with exit code 3'
  assert_equal "$(<"$FAKE_AWS_DIR/told")" $'start\nend'
}

@test "a trainer that does not heed TERM is killed after the grace" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it
  program_does training 'trap "" TERM; : >"$FAKE_PYTHON/started"; while true; do sleep 0.05; done'
  start_boot
  wait_for "$FAKE_PYTHON/started"
  kill -TERM "$boot_pid"
  finish_boot
  assert_failed_run training 143 'exit code 143'
}

@test "an operator's kill stops the trainer; the record says killed, and the state goes from killed to cleanup" {
  plan_cli
  plan_terminate
  export CHRONOS_HEARTBEAT_SECONDS=1
  # shellcheck disable=SC2016  # the fake expands it
  program_does training 'trap "exit 75" TERM; state="$FAKE_AWS_DIR/s3/a-bucket/dev/system-state.json"
    jq -c ".status = \"killed\" | .error_message = \"killed by operator\"" "$state" >"$state.new"; mv "$state.new" "$state"
    while true; do sleep 0.05; done'
  boot
  assert_clean_end
  assert_json "$(run_record_now)" '"\(.outcome) \(.failed_step) \(.error)"' 'killed training killed by operator'
  run ! grep -q failed <(published)
}

@test "a kill that a phase's own write meets before the watch has looked is recorded as killed as well" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it
  program_does data_sync 'state="$FAKE_AWS_DIR/s3/a-bucket/dev/system-state.json"
    jq -c ".status = \"failed\" | .error_message = \"killed by operator\"" "$state" >"$state.new"; mv "$state.new" "$state"'
  boot
  assert_clean_end
  assert_json "$(run_record_now)" '"\(.outcome) \(.error)"' 'killed killed by operator'
  assert_equal "$(published | tail -n 1)" 'cleanup cleanup'
}

@test "a run that has lost its claim stops and leaves the other run's state file alone" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it
  program_does data_sync 'state="$FAKE_AWS_DIR/s3/a-bucket/dev/system-state.json"
    jq -c ".run_id = \"2025-01-20-000000\" | .status = \"initialization\"" "$state" >"$state.new"; mv "$state.new" "$state"'
  boot
  assert_json "$(state_now)" '"\(.run_id) \(.status)"' '2025-01-20-000000 initialization'
  assert_json "$(run_record_now)" '"\(.outcome) \(.error)"' 'failed the claim on the environment was lost to another run'
  assert_equal "$(tail -n 2 "$FAKE_AWS_DIR/effects")" $'terminate-instances\nshutdown -P now'
}

@test "with S3 gone at the end it still terminates and powers off, in this order" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it
  program_does results_sync 'mv "$FAKE_AWS_DIR/s3/a-bucket" "$FAKE_AWS_DIR/s3/gone"'
  boot
  assert_equal "$(tail -n 2 "$FAKE_AWS_DIR/effects")" $'terminate-instances\nshutdown -P now'
  assert_regex "$(<console)" 'run.json could not be finished'
  assert_regex "$(<console)" 'state file could not be deleted'
}

@test "with no room for a temporary file it still terminates and powers off" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it
  program_does training 'rm -rf "${TMPDIR:?}"; exit 1'
  boot
  assert_equal "$(tail -n 2 "$FAKE_AWS_DIR/effects")" $'terminate-instances\nshutdown -P now'
}

@test "with no room on the disk for a temporary file the end is recorded by way of memory" {
  plan_cli
  plan_terminate
  mkdir -p "$CHRONOS_ROOT/dev/shm"
  # shellcheck disable=SC2016  # the fake expands it
  program_does training 'rm -rf "${TMPDIR:?}"; exit 3'
  boot
  assert_failed_run training 3 'exit code 3'
  assert_equal "$(ls -A "$CHRONOS_ROOT/dev/shm")" ''
}

@test "with EC2 and SNS refusing it still succeeds, and powers off" {
  plan_cli
  aws_plan 'ec2 terminate-instances *' --error UnauthorizedOperation
  aws_plan 'sns publish *' --error AuthorizationError --times 2
  CHRONOS_TOPIC_ARN=arn:aws:sns:us-east-1:123456789012:ChronosTraining boot
  assert_equal "$boot_status" 0
  assert_regex "$(cat "$(object a-bucket "dev/$RUN/logs/bootstrap.log")")" 'the notice of the end of run .* was not sent: .*AuthorizationError'
  assert_equal "$(tail -n 1 "$FAKE_AWS_DIR/effects")" 'shutdown -P now'
  assert_regex "$(<console)" 'powering off does it'
}

@test "keep_on_failure_minutes delays the power-off of a failed run, loudly, and moves the dead man's switch" {
  plan_cli
  plan_terminate
  export CHRONOS_KEEP_ON_FAILURE_MINUTES=2
  # Two minutes of keeping last no time here; every other wait is real.
  mkdir quick
  # shellcheck disable=SC2016  # a script's text
  printf '%s\n' '#!/usr/bin/env bash' 'if [[ $1 == 120 ]]; then echo "kept $1" >>"$FAKE_AWS_DIR/effects"; else exec '"'$(toolbox)/sleep'"' "$@"; fi' >quick/sleep
  chmod +x quick/sleep
  program_does training 'exit 3'
  PATH="$work/quick:$PATH" boot
  assert_regex "$(<console)" 'KEPT for 2 minutes after the failure .*i-0abc goes on billing'
  run -0 grep -E 'shutdown|kept' "$FAKE_AWS_DIR/effects"
  assert_output $'shutdown -P +17\nkept 120\nshutdown -P now'
  assert_failed_run training 3 'exit code 3'
}

@test "a log upload that is slow cannot put an older log over the last one" {
  plan_cli
  plan_terminate
  # shellcheck disable=SC2016  # the fake expands it
  aws_plan 's3api put-object * --key dev/*/logs/bootstrap.log *' --pass --before ': >"$FAKE_AWS_DIR/uploading"; sleep 1; echo "slow upload" >>"$FAKE_AWS_DIR/effects"'
  # shellcheck disable=SC2016  # the fake expands it
  program_does training 'while [[ ! -e $FAKE_AWS_DIR/uploading ]]; do sleep 0.05; done; exit 3'
  boot
  assert_no_process_left
  run -0 grep -E 'slow upload|bootstrap.log|shutdown -P now' "$FAKE_AWS_DIR/effects"
  assert_output "slow upload
put-object dev/$RUN/logs/bootstrap.log
put-object dev/$RUN/logs/bootstrap.log
shutdown -P now"
}
