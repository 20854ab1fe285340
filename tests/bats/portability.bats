#!/usr/bin/env bats
# The laptop's scripts on macOS: its tools do, and a Bash that is too old is told so before anything else happens.
# shellcheck disable=SC2154  # variables of the helpers
bats_require_minimum_version 1.5.0
load helpers/common

setup() { common_setup; }

teardown() { common_teardown; }

# Makes $work/bash: this Bash, saying that it is a release of old. <major.minor, as many letters as this one's>
old_bash() {
  "$CHRONOS_PYTHON" - "$(type -P bash)" "$work/bash" "${BASH_VERSINFO[0]}.${BASH_VERSINFO[1]}" "$1" <<'PYTHON'
import sys
from pathlib import Path

source, target, new, old = sys.argv[1:]
Path(target).write_bytes(Path(source).read_bytes().replace(f"\0{new}\0".encode(), f"\0{old}\0".encode()))
Path(target).chmod(0o755)
PYTHON
  # shellcheck disable=SC2016  # for that Bash
  run -0 "$work/bash" -c 'echo "${BASH_VERSINFO[0]}.${BASH_VERSINFO[1]}"'
  assert_output "$1"
}

@test "a Bash that is too old is exit code 24 and a way out, before anything is done" {
  local script
  old_bash 3.2
  for script in "$shell_under_test"/{launch,kill}_training.sh "$repository/invokew"; do
    run --separate-stderr -24 "$work/bash" "$script" --env dev
    assert_output ''
    assert_regex "$stderr" "^${script##*/}: Bash 4.4 or newer is needed, this is 3.2[^ ]*; on macOS: brew install bash$"
  done
  run --separate-stderr -24 "$work/bash" "$shell_under_test/bootstrap.sh"
  assert_regex "$stderr" '^bootstrap.sh: Bash 5.0 or newer is needed'
  refute_called '*'
}

@test "the oldest Bash that will do is let through" {
  old_bash 4.4
  run --separate-stderr -0 "$work/bash" "$shell_under_test/kill_training.sh" --help
  assert_output --partial 'Needs Bash 4.4'
}

@test "another shell is told so as well" {
  local script
  for script in "$shell_under_test"/*.sh "$repository/invokew"; do
    run --separate-stderr -24 sh "$script"
    assert_regex "$stderr" 'or newer is needed, this is another shell'
  done
}

@test "what the laptop sources needs no Bash newer than 4.4" {
  local -a sourced=()
  local file
  # What they source, and what that sources.
  mapfile -t sourced < <(sourced_by "$shell_under_test"/{launch,kill}_training.sh | sort -u)
  if ((${#sourced[@]} < 15)); then fail "only ${#sourced[@]} files"; fi
  # Of 5.0 and later: EPOCH…, SRANDOM, ${x@U}, ${x@k}, wait -p, BASH_ARGV0, ${| …}.
  for file in "${sourced[@]}"; do
    run ! grep -nE 'EPOCH(SECONDS|REALTIME)|SRANDOM|@[UuLKk]\}|wait [^;]*-p|BASH_ARGV0|\$\{[| ]|varredir_close|patsub_replacement' "$file"
  done
}

# Prints files and what they source. <files…>
sourced_by() {
  local file name
  for file in "$@"; do
    printf '%s\n' "$file"
    while read -r name; do sourced_by "$shell_under_test/lib/$name"; done < <(
      sed -nE 's#^source "\$[a-z_]+/(lib/)?([a-z_]+\.sh)"$#\2#p' "$file"
    )
  done
}

@test "a missing tool is named with what macOS has in its place" {
  local folder="$work/few tools" tool
  mkdir "$folder"
  for tool in bash sh env; do ln -s "$(type -P "$tool")" "$folder/$tool"; done
  run --separate-stderr -24 env PATH="$folder" bash "$shell_under_test/launch_training.sh" --env dev
  assert_regex "$stderr" 'not installed: aws, jq, sha256sum or shasum, timeout or perl; run ./invokew setup'
}

@test "a jq of old is told so" {
  mkdir "$work/bin"
  # shellcheck disable=SC2016  # a script's text
  printf '#!/bin/sh\n[ "$1" = --version ] && echo jq-1.5\nexit 3\n' >"$work/bin/jq"
  chmod +x "$work/bin/jq"
  PATH="$work/bin:$PATH" run --separate-stderr -24 bash "$shell_under_test/kill_training.sh" --env dev
  assert_regex "$stderr" 'jq 1.6 or newer is needed, this is jq-1.5'
}

@test "CDPATH leads no script elsewhere" {
  mkdir -p "$work/trap/shell/lib"
  printf 'touch "%s/canary"\n' "$work" >"$work/trap/shell/lib/workstation.sh"
  cd "$project"
  CDPATH="$work/trap" run -0 bash shell/launch_training.sh --help
  assert [ ! -e "$work/canary" ]
}

@test "launch, kill and notices do with macOS's tools what they do with Linux's" {
  local part
  for part in 'launch_training --json prints one' 'kill_training a training run is marked' \
    'lib/notices an event is told once'; do
    run -0 env -i BATS_MACOS_TOOLS=1 BATS_CHRONOS_PYTHON="$CHRONOS_PYTHON" PATH="${BASH%/*}:/usr/local/bin:/usr/bin:/bin" \
      HOME="$HOME" TMPDIR="$TMPDIR" bash "$repository/node_modules/bats/bin/bats" --tap --filter "^${part#* }" \
      "$repository/tests/bats/${part%% *}.bats"
    assert_line --index 0 '1..1'
  done
}

@test "a call without \`timeout\` ends in time as well" {
  # shellcheck source=../../shell/lib/notices.sh
  source "$shell_under_test/lib/notices.sh"
  mkdir "$work/bin"
  ln -s /usr/bin/perl "$work/bin/perl"
  ln -s "$(type -P sleep)" "$work/bin/aws" # aws 60: as long as nobody ends it
  SECONDS=0 PATH="$work/bin" run ! _bounded 1 60
  if ((SECONDS > 50)); then fail "$SECONDS s"; fi
  PATH="$work/bin" run -0 _bounded 50 0
}
