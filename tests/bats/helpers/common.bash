# shellcheck shell=bash
# What every test file loads: a clean environment, a work folder with spaces, a PATH of fakes and plain tools only.

helpers=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
repository=$(cd "$helpers/../../.." && pwd)
# The scripts under test; another folder can be named, to see the suite catch a broken copy.
shell_under_test=${SHELL_UNDER_TEST:-$repository/shell}

# What their load.bash files source, without a process for each line: every test loads this anew.
for library in "$repository"/node_modules/bats-{support,assert}/src/*.bash; do
  # shellcheck source=/dev/null
  source "$library"
done
# shellcheck source=fake_aws.bash
source "$helpers/fake_aws.bash"

# The tools a script may find. No aws, curl, shutdown, systemctl or network client is among them but for the fakes.
readonly TOOLS=(awk basename bash cat chmod comm cp cut date dd df diff dirname env false find flock getconf grep gzip head id jq
  kill ln ls md5sum mkdir mkfifo mktemp mv nice nl nproc od pgrep pkill printf ps python3 readlink rm rmdir script sed seq setsid sh sha256sum
  sleep sort stat tail tar tee test timeout touch tr true uname uniq wc xargs)

# What a macOS lacks of TOOLS, what it has instead, and the tools that differ there.
readonly NOT_ON_MACOS=(sha256sum timeout) ON_MACOS=(perl shasum)
readonly DIFFER_ON_MACOS=(cp cut date dd find grep head ln mktemp mv od readlink sed sort stat tail touch tr wc xargs)

# Prints a folder with links to TOOLS, made once a suite; to a macOS's when BATS_MACOS_TOOLS is set.
toolbox() {
  local folder="$BATS_RUN_TMPDIR/toolbox" tool found
  if [[ ! -d $folder ]]; then
    mkdir "$folder"
    # One line each for those that are there; the names are the tools' own.
    readarray -t found < <(type -P "${TOOLS[@]}" ${BATS_MACOS_TOOLS:+"${ON_MACOS[@]}"})
    ln -s "${found[@]}" "$folder/"
    if [[ -n ${BATS_MACOS_TOOLS:-} ]]; then
      for tool in "${NOT_ON_MACOS[@]}"; do rm "$folder/$tool"; done
      for tool in "${DIFFER_ON_MACOS[@]}"; do ln -sf "$helpers/bsd_tool.bash" "$folder/$tool"; done
    fi
  fi
  printf '%s\n' "$folder"
}

# Sets $work, $project, $state_key and a hermetic environment.
common_setup() {
  local name tools
  tools=$(toolbox)
  for name in $(compgen -e); do
    case $name in AWS_* | CHRONOS_*) unset "$name" ;; esac
  done
  work="$BATS_TEST_TMPDIR/a folder with spaces"
  project="$work/the project"
  mkdir -p "$project" "$work/home" "$work/tmp"
  ln -s "$shell_under_test" "$project/shell"
  ln -s "$repository/python" "$repository/.venv" "$project/"
  export HOME="$work/home" TMPDIR="$work/tmp" TZ=UTC LC_ALL=C
  export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true
  export CHRONOS_PYTHON="${BATS_CHRONOS_PYTHON:-$repository/.venv/bin/python}"
  export PATH="$helpers/bin:$tools"
  cd "$work" || return
  fake_aws_setup
}

# What AWS has just said of prices, so that no launch asks. us-east-1's list prices.
seed_prices() {
  export CHRONOS_PRICES_HOME="$work/prices"
  mkdir -p "$CHRONOS_PRICES_HOME"
  # shellcheck disable=SC2016  # a jq program
  jq -n --arg now "$(date -u +%Y-%m-%dT%H:%M:%SZ)" '
    {"compute:g4dn.2xlarge": 0.752, "compute:g5.xlarge": 1.006, "compute:g5.2xlarge": 1.212, disk: 0.08, address: 0.005,
     put: 0.005, get: 0.0004, "spot:g4dn.2xlarge:us-east-1a": 0.25, "spot:g5.xlarge:us-east-1a": 0.4,
     "spot:g5.2xlarge:us-east-1a": 0.5}
    | map_values({usd: ., source: "AWS Price List", as_of: $now})' >"$CHRONOS_PRICES_HOME/us-east-1.json"
}

common_teardown() {
  fake_aws_verify
}

# Makes `sleep` of every Bash started from here on record its argument instead of waiting; SECONDS goes on by as much.
fake_sleep() {
  export BASH_ENV="$helpers/fake_sleep.bash"
}

# The recorded waits, one a line.
sleeps() { cat "$FAKE_AWS_DIR/sleeps" 2>/dev/null || true; }

# One of the shells' JSON values equals a text. <json> <jq filter> <expected>
assert_json() {
  local actual
  actual=$(jq -r "$2" <<<"$1") || fail "not JSON: $1"
  assert_equal "$actual" "$3"
}

# Nothing was left in the temporary folder.
assert_no_temporary_files() {
  run -0 find "$TMPDIR" -mindepth 1
  assert_output ''
}
