# shellcheck shell=bash
# The instance's own NVMe disk (g4dn, g5, p4d and others have one) for data and scratch: many times as fast as the root
# volume, and paid for anyway. What it holds is gone with the machine, so nothing that must stay lies there alone.
#
# A disk is taken only when EC2 names it an instance store, nothing on it is mounted or in use, and it holds neither
# partitions nor a file system. A Deep Learning AMI has mounted its disks itself: then a folder of that is taken.
# The system is looked at below ${CHRONOS_ROOT}: on the embedded AWS there is none, and nothing is touched.
[[ -n ${_CHRONOS_SCRATCH_DISK:-} ]] && return 0
readonly _CHRONOS_SCRATCH_DISK=1

_scratch_disk_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=log.sh
source "$_scratch_disk_lib_dir/log.sh"

readonly INSTANCE_STORE='Amazon EC2 NVMe Instance Storage'
readonly AMI_STORE=/opt/dlami/nvme

# Lets what is written wait in memory, up to some half of it, before a writer waits for the disk. By default that is at 15 % of it
# (Documentation/admin-guide/sysctl/vm.rst), and environment and data come faster than a root volume takes them. The disk is written
# from the start as ever; nothing on it has to outlive the machine. Never fails.
write_behind() {
  if printf '80\n' 2>/dev/null >"${CHRONOS_ROOT:-}/proc/sys/vm/dirty_ratio"; then log_info "writers wait for the disk from half of the memory on"; fi
}

# Mounts the fastest local disk at a folder, where there is one; never fails. <folder>
use_scratch_disk() {
  local disk
  if _is_mounted_at "${CHRONOS_ROOT:-}$AMI_STORE"; then
    _use_ami_store "$1"
    return 0
  fi
  disk=$(_empty_instance_store)
  if [[ -z $disk ]]; then return 0; fi
  if mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$disk" >&2 \
    && mount -o noatime,nosuid,nodev "$disk" "$1"; then
    log_info "data and scratch are on the instance's own disk $disk"
  else
    log_warn "the instance's own disk $disk could not be used; data stay on the root volume"
  fi
}

# The folder that the AMI has mounted its disks at. <folder>
_use_ami_store() {
  if mkdir -p "${CHRONOS_ROOT:-}$AMI_STORE/chronos" && mount --bind "${CHRONOS_ROOT:-}$AMI_STORE/chronos" "$1"; then
    log_info "data and scratch are on the instance's own disk, which the AMI has mounted at $AMI_STORE"
  else
    log_warn "$AMI_STORE could not be used; data stay on the root volume"
  fi
}

_is_mounted_at() { awk -v at="$1" '$2 == at {found = 1} END {exit !found}' "${CHRONOS_ROOT:-}/proc/mounts" 2>/dev/null; }

# Prints the first instance store that nobody uses, if there is one.
_empty_instance_store() {
  local block name
  for block in "${CHRONOS_ROOT:-}"/sys/block/nvme*n*; do
    name=${block##*/}
    if [[ ! -r $block/device/model || $(<"$block/device/model") != "$INSTANCE_STORE"* ]]; then continue; fi
    if _is_untouched "$block" "${CHRONOS_ROOT:-}/dev/$name"; then
      printf '%s\n' "${CHRONOS_ROOT:-}/dev/$name"
      return 0
    fi
    log_info "the instance's own disk $name is in use or not empty; it is left alone"
  done
}

# Whether a disk has no partition, no user and no trace of a file system. <its folder in /sys/block> <device>
_is_untouched() {
  local status=0 held=("$1"/holders/*) parts=("$1/${1##*/}"p*)
  if [[ -e ${held[0]} || -e ${parts[0]} ]]; then return 1; fi
  if awk -v disk="/dev/${1##*/}" 'index($1, disk) == 1 {found = 1} END {exit !found}' \
    "${CHRONOS_ROOT:-}/proc/mounts" "${CHRONOS_ROOT:-}/proc/swaps" 2>/dev/null; then return 1; fi
  # 2: it has looked and found nothing known. Anything else, a missing blkid included, is no proof of that.
  blkid -p "$2" >/dev/null 2>&1 || status=$?
  ((status == 2))
}
