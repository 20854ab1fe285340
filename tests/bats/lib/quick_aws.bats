#!/usr/bin/env bats
# One process that has loaded the AWS CLI answers a launch's calls.
# shellcheck disable=SC2016,SC2154  # the scripts of other shells; variables of the helpers

bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  quick='source "$project/shell/lib/quick_aws.sh"; start_quick_aws "$work"; '
  export project work
}

teardown() { common_teardown; }

# This project's own AWS CLI beside its Python, as `invoke launch` finds them.
own_tools() { export PATH="$repository/.venv/bin:$PATH" CHRONOS_PYTHON="$repository/.venv/bin/python"; }

@test "another AWS CLI than this project's own is called as ever" {
  aws_plan 'sts get-caller-identity' --out '{"Arn": "a"}'
  run -0 bash -c "$quick"'aws sts get-caller-identity; [[ -z $_quick_socket ]]'
  assert_output '{"Arn": "a"}'
}

@test "a process that is gone is done without: the call is made by the AWS CLI itself" {
  mkdir "$work/own"
  printf '#!/usr/bin/env bash\nsource %q\n' "$helpers/aws_command.bash" >"$work/own/aws"
  chmod +x "$work/own/aws"
  cp "$repository/.venv/pyvenv.cfg" "$work/"
  ln -s "$(readlink -f "$repository/.venv/bin/python")" "$work/own/python"
  export PATH="$work/own:$PATH" CHRONOS_PYTHON="$work/own/python"
  aws_plan 'sts get-caller-identity' --out '{"Arn": "a"}'
  run -0 bash -c "$quick"'kill -KILL "$!"; rm -f "$work/aws.socket"; aws sts get-caller-identity'
  assert_output '{"Arn": "a"}'
}

@test "calls have their own output, errors and exit code; Python modules run; a plain wait does not wait for the process; nothing stays" {
  own_tools
  run -0 --separate-stderr bash -c "$quick"'
    echo "$!" >"$work/pid"
    aws --version
    printf "%s %s\n" "$(cd / && quick_python -m chronos_ec2.workstation.settings --env dev | jq -r .environment)" "$AWS_REGION"
    aws s3api copy-object --bucket b 2>"$work/errors" || echo "exit $?"
    true & wait
    [[ $(type -t aws) == function && -S $work/aws.socket ]]
    rm "$work/aws.socket"
    aws --version | wc -l' AWS_REGION=here
  while kill -0 "$(<"$work/pid")" 2>/dev/null; do sleep 0.05; done
  assert_line --index 0 --regexp '^aws-cli/'
  assert_line --index 1 --regexp '^dev '
  assert_line --index 2 --regexp '^exit (2|252)$'
  assert_line --index 3 1
  run -0 cat "$work/errors"
  assert_output --partial 'the following arguments are required: '
}

@test "the process ends with a script that is killed" {
  own_tools
  bash -c "$quick"'echo "$!" >"$work/pid"; kill -KILL $$' || true
  while kill -0 "$(<"$work/pid")" 2>/dev/null; do sleep 0.05; done
}
