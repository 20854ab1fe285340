# shellcheck shell=bash
# Where files of the Python package lie: in the bucket's scripts/, and so on an instance, beside lib/, in the repository in python/.
[[ -n ${_CHRONOS_PACKAGE_FILE:-} ]] && return 0
readonly _CHRONOS_PACKAGE_FILE=1

_package_file_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=log.sh
source "$_package_file_lib_dir/log.sh"
# shellcheck source=exit_codes.sh
source "$_package_file_lib_dir/exit_codes.sh"

# Prints the path of a file of the package. <its name below chronos_ec2/>   Returns 0; EXIT_TOOL_MISSING.
package_file() {
  local candidate
  for candidate in "$_package_file_lib_dir/../chronos_ec2" "$_package_file_lib_dir/../../python/chronos_ec2"; do
    if [[ -r $candidate/$1 ]]; then
      printf '%s\n' "$candidate/$1"
      return 0
    fi
  done
  log_error "${1##*/} is missing beside $_package_file_lib_dir"
  return "$EXIT_TOOL_MISSING"
}
