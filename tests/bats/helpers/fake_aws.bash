# shellcheck shell=bash disable=SC2154  # variables of common.bash
# The test's side of the fake `aws` (bin/aws): plan its answers, look at what it was asked and what that changed.
#
# A plan is a list of (pattern, answer); the first entry that matches and is not used up answers. With use_fake_s3 the
# S3 calls that no entry matches act on objects kept as files. Every other call is rejected with exit code 97, and fails
# the test even when the script swallows that.

fake_aws_setup() {
  export FAKE_AWS_DIR="$work/fake aws"
  mkdir -p "$FAKE_AWS_DIR/plan"
  : >"$FAKE_AWS_DIR/calls"
  : >"$FAKE_AWS_DIR/effects"
  : >"$FAKE_AWS_DIR/unplanned"
}

# Buckets of the stateful S3. <bucket…>
use_fake_s3() {
  local bucket
  for bucket in "$@"; do mkdir -p "$FAKE_AWS_DIR/s3/$bucket"; done
}

# Where an object lies. <bucket> <key>
object() { printf '%s\n' "$FAKE_AWS_DIR/s3/$1/$2"; }

# <bucket> <key> <text>
put_object() {
  local file
  file=$(object "$1" "$2")
  mkdir -p "${file%/*}"
  printf '%s' "$3" >"$file"
}

# Plans an answer. <pattern of the argv, joined by spaces> [options]
#   --out TEXT        on standard output
#   --error CODE      fail as the service does, with its error code
#   --silence         fail as the CLI does when no answer comes
#   --exit N          with this exit code
#   --times N|any     how often (default: exactly once; any: as often as asked, also never)
#   --lost            let the call take effect in the stateful S3 first
#   --before SNIPPET  run this before answering
#   --pass            answer from the stateful S3 after all (for --before)
aws_plan() {
  local pattern=$1 out='' err='' code=0 times=1 lost=false before='' pass=false entry number
  shift
  while (($# > 0)); do
    case $1 in
      --out) out=$2 && shift 2 ;;
      --error) err="An error occurred ($2) when calling the operation: the fake says so" code=254 && shift 2 ;;
      --silence) err='Could not connect to the endpoint URL: "http://nowhere/"' code=255 && shift ;;
      --exit) code=$2 && shift 2 ;;
      --stderr) err=$2 && shift 2 ;;
      --times) times=$2 && shift 2 ;;
      --lost) lost=true && shift ;;
      --before) before=$2 && shift 2 ;;
      --pass) pass=true && shift ;;
      *) fail "aws_plan: unknown option $1" ;;
    esac
  done
  number=$(find "$FAKE_AWS_DIR/plan" -name '*.entry' | wc -l)
  printf -v entry '%s/plan/%03d.entry' "$FAKE_AWS_DIR" "$number"
  declare -p pattern out err code lost before pass >"$entry"
  printf '%s\n' "$times" >"${entry%.entry}.left"
}

# The test fails when a call was not planned, or a planned one was not made. Bats looks at no status but a teardown's last.
fake_aws_verify() {
  local left entry pattern problems=''
  if [[ -s $FAKE_AWS_DIR/unplanned ]]; then
    problems="calls of aws that were not planned:"$'\n'"$(cat "$FAKE_AWS_DIR/unplanned")"$'\n'
  fi
  for left in "$FAKE_AWS_DIR"/plan/*.left; do
    [[ -e $left ]] || continue
    if [[ $(<"$left") != [0a]* ]]; then
      entry="${left%.left}.entry"
      # shellcheck source=/dev/null
      source <(grep 'pattern=' "$entry")
      problems+="planned, but not called ($(<"$left") left): aws $pattern"$'\n'
    fi
  done
  if [[ -n $problems ]]; then fail "$problems"; fi
}

# Every call, one a line, quoted as it could be typed.
aws_calls() { cat "$FAKE_AWS_DIR/calls"; }

# How many calls match. <pattern of the argv, joined by spaces, unquoted>
count_calls() {
  local pattern=$1 line count=0
  while IFS= read -r line; do
    # shellcheck disable=SC2053  # a pattern on purpose
    if [[ $line == $pattern ]]; then count=$((count + 1)); fi
  done <"$FAKE_AWS_DIR/calls.plain"
  printf '%d\n' "$count"
}

# A call with exactly these arguments was made, this often. <times> <argv…>
assert_called() {
  local times=$1 wanted count
  shift
  printf -v wanted '%q ' "$@"
  count=$(grep -cxF -- "$wanted" "$FAKE_AWS_DIR/calls" || true)
  if [[ $count != "$times" ]]; then
    fail "expected $times x: $wanted"$'\n'"got $count; all calls:"$'\n'"$(aws_calls)"
  fi
}

# No call matches. <pattern>
refute_called() {
  local count
  count=$(count_calls "$1" 2>/dev/null || printf '0\n')
  if [[ $count != 0 ]]; then fail "unexpected: $1"$'\n'"all calls:"$'\n'"$(aws_calls)"; fi
}

# What the calls changed, in order and nothing else. Nonces read N, run ids that the script chose read RUN. <line…>
assert_effects() {
  local actual wanted=''
  if (($# > 0)); then printf -v wanted '%s\n' "$@"; fi
  actual=$(sed -E "s/tmp-[0-9a-f]+/tmp-N/; ${ours:+s/$ours/RUN/g;}" "$FAKE_AWS_DIR/effects")
  assert_equal "$actual" "${wanted%$'\n'}"
}

# A state file's body. [status] [step] [run id] [instance id, or null]
state_body() {
  local instance=${4:-i-0abc}
  if [[ $instance != null ]]; then instance="\"$instance\""; fi
  printf '{"run_id":"%s","environment":"dev","status":"%s","current_step":"%s","instance_id":%s,"instance_type":"g4dn.2xlarge",' \
    "${3:-2025-01-15-143022}" "${1:-training}" "${2:-step_7}" "$instance"
  printf '"s3_prefix":"s3://a-bucket/dev/%s/","timestamps":{"start":"2025-01-15T14:30:22Z","last_update":"2025-01-15T14:40:00Z"},' \
    "${3:-2025-01-15-143022}"
  printf '"training_config":{},"error_message":null,"pid":null,'
  printf '"control":{"revision":3,"writer":"00ff00ff00ff00ff","deadline":"2025-01-15T20:30:22Z","attempt":1}}'
}

# Puts a state file of `dev` in a-bucket. [as state_body]
put_state() { put_object a-bucket dev/system-state.json "$(state_body "$@")"; }

# The state file of `dev` as it is now, or nothing.
state_now() { cat "$(object a-bucket dev/system-state.json)" 2>/dev/null || true; }

# The states that were published, in order, one a line. [jq filter]
published() {
  local default='"\(.status) \(.current_step)"'
  jq -r "${1:-$default}" "$FAKE_AWS_DIR/published" 2>/dev/null || true
}

# A run.json without an end. [run id]
put_run_record() {
  local run=${1:-2025-01-15-143022}
  put_object a-bucket "dev/$run/run.json" "{\"run_id\":\"$run\",\"ended_at\":null,\"outcome\":null,\"instance\":{\"id\":null,\"type\":\"g4dn.2xlarge\"}}"
}

# The run.json as it is now. [run id]
run_record_now() { cat "$(object a-bucket "dev/${1:-2025-01-15-143022}/run.json")"; }

# An instance as describe-instances prints it. <id> <state> <run id>
instance_json() {
  printf '{"InstanceId":"%s","State":{"Name":"%s"},"Tags":[{"Key":"RunId","Value":"%s"}]}' "$@"
}

# describe-instances' answer. <instance json…>
instances_json() {
  local IFS=,
  printf '{"Reservations":[{"Instances":[%s]}]}' "$*"
}
