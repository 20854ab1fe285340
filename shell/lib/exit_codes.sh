# shellcheck shell=bash disable=SC2034
# Every exit code of the project; python/chronos_ec2/exit_codes.py holds the same table for Python.
[[ -n ${_CHRONOS_EXIT_CODES:-} ]] && return 0
readonly _CHRONOS_EXIT_CODES=1

readonly EXIT_OK=0
readonly EXIT_FAILED=1
readonly EXIT_USAGE=2
readonly EXIT_NO_CREDENTIALS=10
readonly EXIT_NOT_DEPLOYED=11
readonly EXIT_HELD=12
readonly EXIT_ILLEGAL_TRANSITION=13
readonly EXIT_STATE_UNREADABLE=14
readonly EXIT_S3_DENIED=15
readonly EXIT_NO_AMI=16
readonly EXIT_LAUNCH_REFUSED=17
readonly EXIT_NOT_UPLOADED=18
readonly EXIT_DATA_INVALID=19
readonly EXIT_RUN_FAILED=20
readonly EXIT_RUN_KILLED=21
readonly EXIT_RUN_LOST=22
readonly EXIT_TOOL_TOO_OLD=23
readonly EXIT_TOOL_MISSING=24
readonly EXIT_NOT_AN_INSTANCE=25
readonly EXIT_SETTINGS_INVALID=26
readonly EXIT_NO_SUCH_RUN=27
readonly EXIT_STATE_CONFLICT=28
readonly EXIT_LOCAL_CLOUD_DOWN=29
readonly EXIT_TOO_DEAR=30
readonly EXIT_NOT_READY=31
readonly EXIT_RUN_INTERRUPTED=32
readonly EXIT_INTERRUPTED=130
readonly EXIT_NOBODY_READS=141
readonly EXIT_TERMINATED=143
