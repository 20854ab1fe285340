#!/usr/bin/env bash
# Runs every test file, as many at once as there are cores; prints each file's results when it is done.
#
# Usage: run.sh [--help]
#
# Exit codes: 0 all passed; 1 a test failed, or there was none to run.
# Runs on: the laptop, or a build machine. Needs node_modules (npm ci). One process does the same, in sequence:
#   bash node_modules/bats/bin/bats --recursive tests/bats
set -Eeuo pipefail
shopt -s inherit_errexit

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
bats="$here/../../node_modules/bats/bin/bats"

# Runs one file; its output is printed in one piece. <file>
run_file() {
  local output status=0
  output=$(bash "$bats" --setup-suite-file "$here/setup_suite.bash" --timing --print-output-on-failure "$1" 2>&1) || status=$?
  printf '# %s\n%s\n' "${1#"$here"/}" "$output"
  return "$status"
}

main() {
  local files
  case ${1:-} in
    '') ;;
    --help | -h)
      sed -n '2,/^[^#]/ { /^#/ s/^# \{0,1\}//p }' "${BASH_SOURCE[0]}"
      return 0
      ;;
    --file)
      run_file "$2"
      return
      ;;
    *)
      printf 'unknown argument %q; see --help\n' "$1" >&2
      return 2
      ;;
  esac
  # The largest first, so that the workers end together.
  readarray -t files < <(find "$here" -name '*.bats' -printf '%s %p\n' | sort -rn | cut -d' ' -f2-)
  if ((${#files[@]} == 0)); then
    printf 'no test file in %s\n' "$here" >&2
    return 1
  fi
  printf '%s\0' "${files[@]}" | xargs -0 -P "$(nproc)" -n 1 bash "${BASH_SOURCE[0]}" --file || return 1
}

main "$@"
