#!/usr/bin/env bats
# Rules that a linter cannot see.
# shellcheck disable=SC2154  # variables of the helpers
bats_require_minimum_version 1.5.0
load helpers/common

setup() {
  common_setup
  readarray -t scripts < <(find "$shell_under_test" -maxdepth 1 -name '*.sh' | sort)
  readarray -t libraries < <(find "$shell_under_test/lib" -name '*.sh' | sort)
}

teardown() { common_teardown; }

# The file without comments, so that a rule may be named in one. <file>
code_of() { sed -E 's/^[[:space:]]*#.*//' "$1"; }

@test "there is something to check" {
  assert_equal "${#scripts[@]}" 3
  if ((${#libraries[@]} < 8)); then fail "only ${#libraries[@]} libraries"; fi
}

@test "every script is executable, starts strict, and prints its own header for --help" {
  local script
  for script in "${scripts[@]}"; do
    assert [ -x "$script" ]
    run -0 head -n 1 "$script"
    assert_output '#!/usr/bin/env bash'
    run -0 grep -cE '^(set -Eeuo pipefail|shopt -s inherit_errexit)$' "$script"
    assert_output 2
    run --separate-stderr -0 bash "$script" --help
    assert_equal "$output" "$(sed -n '2,/^[^#]/ { /^#/ s/^# \{0,1\}//p }' "$script")"
    assert_output --partial 'Usage: '
    assert_output --partial 'Exit codes: '
    assert_output --partial 'Runs on: '
  done
}

@test "a library is only ever sourced: no shebang, no exec bit, a load guard, no set, no exit, nothing printed when loaded" {
  local library
  for library in "${libraries[@]}"; do
    assert [ ! -x "$library" ]
    run -0 head -n 1 "$library"
    assert_output --regexp '^# shellcheck shell=bash'
    run -0 grep -cE '^\[\[ -n \$\{_CHRONOS_[A-Z_]+:-\} \]\] && return 0$' "$library"
    assert_output 1
    assert_equal "$(code_of "$library" | grep -E '^[[:space:]]*(set [-+]|exit( |$))' || true)" ''
  done
}

@test "a library can be loaded twice, and changes no option of the shell" {
  local library
  for library in "${libraries[@]}"; do
    # Two of them are parts of bootstrap.sh and stand on its other libraries.
    # shellcheck disable=SC2016  # a script's text
    run --separate-stderr -0 bash -uc 'before=$(set +o; shopt); source "$1"; source "$1"
      if [[ $before != "$(set +o; shopt)" ]]; then echo "changed the options"; fi' _ "$library"
    assert_output ''
    assert_equal "$stderr" ''
  done
}

@test "no bare return: in an EXIT handler it hands back the status from before the handler, not the failure" {
  run ! grep -nE '\breturn[[:space:]]*($|;|\})' "${scripts[@]}" "${libraries[@]}"
  # What Bash does, seen here, is why.
  # shellcheck disable=SC2016  # a script's text
  run -0 bash -c 'fails() { false || return; }; on_exit() { if fails; then echo "a failure read as success"; fi; }; trap on_exit EXIT'
  assert_output 'a failure read as success'
}

@test "the scripts are plain Bash: no template directives, no eval" {
  local file
  for file in "${scripts[@]}" "${libraries[@]}"; do
    assert_equal "$(code_of "$file" | grep -E '\{\{|\{%|(^[[:space:]]*|[;&|(][[:space:]]*)eval[[:space:]]' || true)" ''
  done
}

@test "nothing powers a machine off but power_off and the user data, and never by an absolute path" {
  local file found
  found=$(for file in "${scripts[@]}" "${libraries[@]}"; do
    code_of "$file" | grep -nE '(^|[^[:alnum:]_-])(shutdown|poweroff|halt|reboot|systemctl|telinit|init [06])([^[:alnum:]_-]|$)' \
      | sed "s#^[0-9]*:[[:space:]]*#${file##*/}: #" || true
  done | grep -v -- '--instance-initiated-shutdown-behavior\|power_off\|type -P shutdown' || true)
  assert_equal "$found" $'instance.sh: shutdown -P "+$minutes"\ninstance.sh: shutdown -P now'
  run ! grep -rnE '/s?bin/(shutdown|poweroff|halt|reboot|systemctl)' "$shell_under_test" "$repository/templates"
  run ! grep -rnE '(poweroff|halt|reboot|systemctl)' "$repository/templates/user_data.sh.j2"
}

@test "only a child that runs is signalled, and by companions the bootstrap that began them" {
  local file found
  found=$(for file in "${scripts[@]}" "${libraries[@]}"; do
    code_of "$file" | sed 's/invoke kill//g' | grep -oE '(^|[^[:alnum:]_-])p?kill +[-"$%0-9].*' | sed "s#^[[:space:]]*#${file##*/}: #" || true
  done | grep -vE ': kill -TERM "\$[14]" 2>/dev/null \|\| true$' || true)
  # shellcheck disable=SC2016  # a library's text
  assert_equal "$found" 'children.sh: kill "-$1" "$2" 2>/dev/null; }'
}

@test "nothing is deleted by a path that an empty variable would shorten" {
  local found
  found=$(grep -rhE '(^|[^[:alnum:]])rm +-[a-zA-Z]*r' "$shell_under_test" "$repository/templates" "$repository/invokew" \
    | grep -vE 'rm -rf ("\$\{[a-z_]+:\?\}"|\.venv)(;| |$)' || true)
  assert_equal "$found" ''
}

@test "Bash and Python have the same exit codes" {
  run -0 "$CHRONOS_PYTHON" -c '
from chronos_ec2.exit_codes import ExitCode
for code in ExitCode:
    print(f"readonly EXIT_{code.name}={code.value}")'
  assert_equal "$(grep '^readonly EXIT_' "$shell_under_test/lib/exit_codes.sh")" "$output"
}

@test "a script's exit codes are constants with a name" {
  local file
  for file in "${scripts[@]}" "${libraries[@]}"; do
    # But where a Bash that is too old for the table ends.
    assert_equal "$(sed '/BASH_VERSINFO/,/^fi$/d' "$file" | grep -E '\b(exit|return) ([2-9]|[1-9][0-9]+)\b' || true)" ''
  done
}

@test "every test file of the suite asks for its bats version and cleans up after itself" {
  local file
  while IFS= read -r file; do
    run -0 grep -c '^bats_require_minimum_version 1.5.0$' "$file"
    run -0 grep -c 'common_setup' "$file"
    run -0 grep -c 'common_teardown' "$file"
  done < <(find "$repository/tests/bats" -name '*.bats')
}

@test "a test that fails makes the suite fail, whatever way it fails" {
  mkdir -p tests/one/two
  sed "s#load ../../helpers/common#load $repository/tests/bats/helpers/common#" \
    "$repository/tests/bats/fixtures/failing/this_fails.fixture" >tests/one/two/this_fails.bats
  run -1 env -i PATH="$PATH" HOME="$HOME" TMPDIR="$TMPDIR" bash "$repository/node_modules/bats/bin/bats" --tap tests/one/two
  assert_line --index 0 '1..4'
  assert_equal "$(grep -c '^not ok' <<<"$output")" 4
  assert_output --partial 'calls of aws that were not planned'
  assert_output --partial 'planned, but not called (1 left): aws ec2 terminate-instances'
}

@test "no test can reach a real aws, curl, shutdown or package of the developer's PATH" {
  local tool
  for tool in aws curl shutdown; do
    run -0 type -P "$tool"
    assert_output "$helpers/bin/$tool"
  done
  for tool in poweroff reboot halt systemctl ssh wget git; do
    run ! type -P "$tool"
  done
  run ! env -u FAKE_AWS_DIR aws sts get-caller-identity
}
