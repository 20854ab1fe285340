# shellcheck shell=bash
# Runs once before all tests: nothing of the developer's own AWS or Chronos settings reaches a test.

setup_suite() {
  local name
  while IFS= read -r name; do
    case $name in AWS_* | CHRONOS_*) unset "$name" ;; esac
  done < <(compgen -e)
  export TZ=UTC LC_ALL=C
}
