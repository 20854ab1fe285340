#!/usr/bin/env bats
# shell/lib/environment_image.sh and bulk_copy.sh: the environment is checked, and takes the best way there is.
# shellcheck disable=SC2154  # variables of the libraries and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  use_fake_s3 a-bucket
  export CHRONOS_BUCKET=a-bucket CHRONOS_ROOT="$work/the disk"
  mkdir -p "$work/bin" "$work/env" "$work/in/bin"
  PATH="$work/bin:$PATH"
  printf 'content' >"$work/in/bin/python3"
  # shellcheck source=../../../shell/lib/phases.sh
  source "$project/shell/lib/phases.sh"
}

teardown() { common_teardown; }

# A program of the machine. <name> <its text>
program() {
  printf '#!/usr/bin/env bash\n%s\n' "$2" >"$work/bin/$1"
  chmod +x "$work/bin/$1"
}

# Uploads an archive of $work/in. <name> <command that prints it…>
upload() {
  export CHRONOS_ENVIRONMENT_ARCHIVE=$1 CHRONOS_ENVIRONMENT_PIECES_SHA256
  local object
  object=$(object a-bucket "cached-datasets/python-env/$1")
  mkdir -p "${object%/*}"
  shift
  "$@" >"$object"
  # One piece.
  CHRONOS_ENVIRONMENT_PIECES_SHA256=$(sha256sum <"$object" | cut -d' ' -f1 | sha256sum | cut -d' ' -f1)
}

upload_tar() { upload venv.tar.gz tar -czf - -C "$work/in" bin; }
upload_image() { upload venv.squashfs printf 'an image'; }

bring() {
  begin_environment "$work/archives"
  bring_environment "$work/env" "$work/unpacked"
}

@test "an image is mounted read-only, and stays for its mount" {
  upload_image
  program mount "printf '%s\n' \"\$*\" >>'$work/mounted'"
  program unsquashfs 'exit 9'
  bring
  assert_equal "$environment_used" mount
  assert_equal "$(<"$work/mounted")" "-t overlay -o ro,lowerdir=$work/archives:$work/archives.none overlay $work/archives.seen
-t squashfs -o loop,ro,nosuid,nodev $work/archives.seen/venv.squashfs $work/env"
  assert_equal "$(<"$work/archives/venv.squashfs")" 'an image'
}

@test "an image is mounted as it lies where there are no overlays" {
  upload_image
  program mount "case \$2 in overlay) exit 32 ;; esac; printf '%s\n' \"\$*\" >>'$work/mounted'"
  bring
  assert_equal "$environment_used" mount
  assert_equal "$(<"$work/mounted")" "-t squashfs -o loop,ro,nosuid,nodev $work/archives/venv.squashfs $work/env"
}

@test "nothing stays mounted of an image that is unpacked" {
  upload_image
  program mount "case \$2 in overlay) exit 0 ;; *) exit 32 ;; esac"
  program umount "printf '%s\n' \"\$*\" >'$work/unmounted'"
  # shellcheck disable=SC2016  # the program's own
  program unsquashfs 'exit 0'
  bring
  assert_equal "$environment_used" unsquashfs
  assert_equal "$(<"$work/unmounted")" "$work/archives.seen"
}

@test "an image that may not be mounted is unpacked, and the reason is said" {
  upload_image
  program mount 'echo "only root can do that" >&2; exit 1'
  # shellcheck disable=SC2016  # the program's own
  program unsquashfs '[[ $* == "-quiet -no-progress -no-xattrs -force -dest '"$work/unpacked"' "* ]] && cp "${!#}" "'"$work/unpacked"'/unpacked"'
  run -0 --separate-stderr bring
  # shellcheck disable=SC2154
  [[ $stderr == *'cannot be mounted here (only root can do that)'*": unsquashfs"* ]]
  assert_equal "$(<"$work/env/unpacked")" 'an image'
  assert [ ! -e "$work/archives/venv.squashfs" ]
}

@test "without mount and unsquashfs the phase fails, and says what to do" {
  upload_image
  run -1 --separate-stderr bring
  [[ $stderr == *'cannot be unpacked: run invoke build-env'* ]]
}

@test "a .tar.zst is unpacked by zstd" {
  upload venv.tar.zst tar -cf - -C "$work/in" bin
  program zstd 'cat' # tar calls it with -d
  bring
  assert_equal "$environment_used $(<"$work/env/bin/python3")" 'tar.zst content'
}

@test "the document's .tar.gz is unpacked by tar" {
  upload_tar
  bring
  assert_equal "$environment_used $(<"$work/env/bin/python3")" 'tar.gz content'
  # On the data's disk, which is the machine's own where it has one.
  assert_equal "$(<"$work/unpacked/bin/python3")" content
  assert [ ! -e "$work/archives/venv.tar.gz" ]
}

@test "an archive with one other byte is refused, and nothing of it is left" {
  upload_tar
  CHRONOS_ENVIRONMENT_PIECES_SHA256=${CHRONOS_ENVIRONMENT_PIECES_SHA256/[0-9a-f]/x}
  run -1 --separate-stderr bring
  [[ $stderr == *'is corrupt, or another was uploaded since the launch (its sha256'* ]]
  run -0 find "$work/archives" "$work/env" -mindepth 1
  assert_output ''
}

@test "an archive that is not there is no corrupt one" {
  upload_tar
  rm "$(object a-bucket cached-datasets/python-env/venv.tar.gz)"
  run -1 --separate-stderr bring
  [[ $stderr == *'could not be downloaded'* ]]
}

@test "s5cmd fetches where it is, with the endpoint of the AWS variables" {
  upload_tar
  program s5cmd "printf '%s\n' \"\$*\" >'$work/asked'; cp '$(object a-bucket cached-datasets/python-env/venv.tar.gz)' \"\${!#}\""
  AWS_ENDPOINT_URL=http://127.0.0.1:9 bring
  assert_equal "$(<"$work/asked")" "--log error --retry-count 5 --endpoint-url http://127.0.0.1:9 cp --raw --concurrency 16 --part-size 8 s3://a-bucket/cached-datasets/python-env/venv.tar.gz $work/archives/venv.tar.gz"
  assert_equal "$(count_calls 's3 cp *')" 0
}

@test "where s5cmd breaks off, the AWS CLI does it" {
  upload_tar
  # shellcheck disable=SC2016  # the program's own
  program s5cmd 'echo half >"${!#}"; exit 1'
  run -0 --separate-stderr bring
  [[ $stderr == *'could not be fetched by s5cmd'* ]]
  assert_equal "$(count_calls 's3 cp *')" 1
}

@test "a digest that cannot be made is no corrupt archive" {
  upload_tar
  program python3 'exit 127'
  run -1 --separate-stderr bring
  [[ $stderr == *'the digest of the training environment '*' cannot be made on this AMI'* ]]
  assert_equal "$(count_calls 's3 cp *')" 1
  run -0 find "$work/archives" -mindepth 1
  assert_output ''
}

@test "a fetch that the kernel killed is made once more" {
  upload_tar
  begin_environment "$work/archives"
  kill -KILL "${behind[environment]}"
  bring_environment "$work/env" "$work/unpacked"
  assert_equal "$environment_used" tar.gz
}

@test "TERM in the middle of the download leaves no process" {
  local parent
  upload_tar
  program s5cmd "echo begun; touch '$work/begun'; exec sleep 60"
  export -f program
  # shellcheck disable=SC2016  # for the other shell
  setsid bash -c 'set -Eeuo pipefail; source "$1/shell/lib/phases.sh"
    trap "stop_background; exit 143" TERM; begin_environment "$2/archives"; bring_environment "$2/env" "$2/unpacked"' _ "$project" "$work" 3>&- &
  parent=$!
  for ((attempt = 0; attempt < 400; attempt++)); do
    if [[ -e $work/begun ]]; then break; fi
    sleep 0.05
  done
  kill -TERM "$parent"
  wait "$parent" || assert_equal $? 143
  for ((attempt = 0; attempt < 100; attempt++)); do
    left=$(pgrep -a -s "$parent" -r D,R,S,T || true)
    if [[ -z $left ]]; then return 0; fi
    sleep 0.1
  done
  fail "still running: $left"
}

@test "preflight's report says which way was taken" {
  printf '{"ok": true}' >"$work/report.json"
  CHRONOS_ENVIRONMENT_ARCHIVE=venv.squashfs environment_used=mount note_environment_used "$work/report.json"
  assert_equal "$(jq -c . "$work/report.json")" '{"ok":true,"environment":{"archive":"venv.squashfs","used":"mount"}}'
}
