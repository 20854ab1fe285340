#!/usr/bin/env bats
# shell/lib/resume.sh: whether a launch can go on from another run's checkpoint.
# shellcheck disable=SC2034,SC2154  # variables of the launch script and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/resume.sh
  source "$project/shell/lib/resume.sh"
  environment=dev bucket=a-bucket assignments=('max_steps=5' 'command=["a b"]')
  printf 'the data manifest' >"$work/training-data"
  printf '{"sha256": "abc"}' >"$work/python-env"
  CHRONOS_PYTHON="$work/a python"
}

teardown() { common_teardown; }

# The Python that is asked. <line>
python_does() {
  printf '%s\n' '#!/usr/bin/env bash' "printf '%s\n' \"\$@\" >asked" "$1" >"$CHRONOS_PYTHON"
  chmod +x "$CHRONOS_PYTHON"
}

@test "a launch that goes on from nothing asks nothing" {
  run --separate-stderr -0 find_checkpoint ''
  assert_output null
}

@test "the run, the settings of this call and both digests are asked about; the step is said" {
  # shellcheck disable=SC2016  # the fake's text
  python_does 'echo "{\"run_id\": \"2025-01-14-000000\", \"step\": 40}"'
  run --separate-stderr -0 find_checkpoint 2025-01-14-000000
  assert_json "$output" '"\(.run_id) \(.step)"' '2025-01-14-000000 40'
  assert_regex "$stderr" 'going on from step 40 of run 2025-01-14-000000'
  run -0 cat asked
  assert_output "-m
chronos_ec2.workstation.resume
--env
dev
--bucket
a-bucket
--run-id
2025-01-14-000000
--dataset-sha256
$(sha256sum "$work/training-data" | cut -d' ' -f1)
--environment-sha256
abc
--set
max_steps=5
--set
command=[\"a b\"]"
}

@test "a refusal ends the launch with its own exit code" {
  python_does 'echo "no such run" >&2; exit 27'
  run --separate-stderr -27 find_checkpoint 2025-01-14-000000
  assert_output ''
  assert_regex "$stderr" 'no such run'
}
