# shellcheck shell=bash
# The training environment on the instance: fetched behind what comes before it, checked, and put in its place the quickest way
# that this machine allows. By the archive's name:
#
#   .squashfs   mounted read-only (nothing is unpacked), else unpacked by unsquashfs
#   .tar.zst    unpacked by tar and zstd
#   .tar.gz     unpacked by tar
#
# Which way was taken is in the log, in preflight.json and in run.json (environment_archive.used).
[[ -n ${_CHRONOS_ENVIRONMENT_IMAGE:-} ]] && return 0
readonly _CHRONOS_ENVIRONMENT_IMAGE=1

_environment_image_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=bulk_copy.sh
source "$_environment_image_lib_dir/bulk_copy.sh"
# shellcheck source=behind.sh
source "$_environment_image_lib_dir/behind.sh"

environment_used=''
environment_archive=''

# Begins to fetch the run's environment and to check it. <folder for the archive>
begin_environment() {
  mkdir -p "$1" || return $?
  environment_archive="$1/$CHRONOS_ENVIRONMENT_ARCHIVE"
  : >"$environment_archive.coming" || return $?
  begin environment _fetch_environment
}

_environment_key() { printf 'cached-datasets/python-env/%s\n' "$CHRONOS_ENVIRONMENT_ARCHIVE"; }

_fetch_environment() {
  fetch_checked "$(_environment_key)" "$environment_archive" "$CHRONOS_ENVIRONMENT_PIECES_SHA256"
}

# Whether its bytes are still on their way, and with them the network taken.
environment_is_coming() { [[ -n $environment_archive && -e $environment_archive.coming ]]; }

# Waits for the run's environment and puts it into a folder. <folder> <where it is unpacked to>   Sets environment_used.
bring_environment() {
  local key status=0
  key=$(_environment_key)
  finish_fetch environment _fetch_environment || status=$?
  case $status in
    0) ;;
    2) fail "the training environment $key is corrupt, or another was uploaded since the launch (its sha256 is not the launch's): launch again; if that ends as well, run invoke build-env and invoke upload" ;;
    3) fail "the digest of the training environment $key cannot be made on this AMI; see the log" ;;
    *) fail "the training environment s3://$CHRONOS_BUCKET/$key could not be downloaded" ;;
  esac || return $?
  place_environment "$environment_archive" "$1" "$2" \
    || fail "the training environment $key cannot be unpacked: run invoke build-env and invoke upload" || return $?
  log_info "the training environment is in $1: $environment_used"
}

# Puts an archive's content into a folder, which is empty. What is unpacked goes to another, on the disk of the data, and a link
# leads there: the instance's own disk writes several times as fast as the root volume.
# <archive> <folder> <where it is unpacked to>   Sets environment_used.
place_environment() {
  environment_used=''
  if [[ $1 == *.squashfs ]] && _mount_image "$1" "$2"; then
    environment_used=mount
    return 0 # the image stays: it is what the mount reads
  fi
  mkdir -p "$3" || return $?
  _unpack "$1" "$3" || return $?
  rm -f "$1"
  rmdir "$2" && ln -s "$3" "$2"
}

# <archive> <folder>   Sets environment_used.
_unpack() {
  case $1 in
    *.squashfs)
      run_waiting unsquashfs -quiet -no-progress -no-xattrs -force -dest "$2" "$1" || return $?
      environment_used=unsquashfs
      ;;
    *.tar.zst)
      run_waiting tar --use-compress-program=zstd -xf "$1" -C "$2" || return $?
      environment_used=tar.zst
      ;;
    *)
      run_waiting tar -xzf "$1" -C "$2" || return $?
      environment_used=tar.gz
      ;;
  esac
}

# Mounts an image read-only. The loop device goes with the mount, and the mounts with the machine. <image> <folder>
_mount_image() {
  local trouble image
  image=$(_view_of "$1") || image=$1
  if trouble=$(mount -t squashfs -o loop,ro,nosuid,nodev "$image" "$2" 2>&1); then return 0; fi
  if [[ $image != "$1" ]]; then umount "${image%/*}" || true; fi
  log_info "the image cannot be mounted here (${trouble//$'\n'/ }), so it is unpacked"
  return 1
}

# Prints a path at which an image can be made a loop device at once. Kernels since 2025 (6.15) write such a file to the disk first,
# which takes the root volume longer than all else here; of a file that lies under an overlay they write nothing. <image>
_view_of() {
  local folder=${1%/*}
  mkdir -p "$folder.seen" "$folder.none" \
    && mount -t overlay -o "ro,lowerdir=$folder:$folder.none" overlay "$folder.seen" >/dev/null 2>&1 \
    && printf '%s\n' "$folder.seen/${1##*/}"
}

# Adds to preflight's report how the environment got there. <report>
note_environment_used() {
  local told
  # shellcheck disable=SC2016  # a jq program
  if told=$(jq --arg used "$environment_used" --arg archive "$CHRONOS_ENVIRONMENT_ARCHIVE" \
    '. + {environment: {archive: $archive, used: $used}}' "$1" 2>/dev/null); then
    printf '%s\n' "$told" >"$1"
  fi
}
