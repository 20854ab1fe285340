#!/usr/bin/env bats
# shell/lib/scratch_disk.sh: the instance's own disk is used when it is certain that nobody else uses it.
# shellcheck disable=SC2154  # variables of the library and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  export CHRONOS_ROOT="$work/the disk"
  mkdir -p "$work/bin" "$CHRONOS_ROOT/proc" "$CHRONOS_ROOT/dev" "$CHRONOS_ROOT/data"
  : >"$CHRONOS_ROOT/proc/mounts"
  : >"$CHRONOS_ROOT/proc/swaps"
  PATH="$work/bin:$PATH"
  program mkfs.ext4 0
  program mount 0
  program blkid 2
  disk nvme0n1 'Amazon Elastic Block Store              '
  disk nvme1n1 'Amazon EC2 NVMe Instance Storage        '
  # shellcheck source=../../../shell/lib/scratch_disk.sh
  source "$project/shell/lib/scratch_disk.sh"
}

teardown() { common_teardown; }

# A program that notes its call. <name> <exit status>
program() {
  printf '#!/usr/bin/env bash\nprintf "%%s\\n" "%s $*" >>"%s/done"\nexit %s\n' "$1" "$work" "$2" >"$work/bin/$1"
  chmod +x "$work/bin/$1"
}

# <name> <model>
disk() {
  mkdir -p "$CHRONOS_ROOT/sys/block/$1/device" "$CHRONOS_ROOT/sys/block/$1/holders"
  printf '%s\n' "$2" >"$CHRONOS_ROOT/sys/block/$1/device/model"
}

changes() { grep -E '^(mkfs|mount)' "$work/done" 2>/dev/null || true; }

use() { use_scratch_disk "$CHRONOS_ROOT/data"; }

@test "writers are let ahead of the disk where the kernel can be told so" {
  run -0 write_behind
  assert_output ''
  assert [ ! -e "$CHRONOS_ROOT/proc/sys" ]
  mkdir -p "$CHRONOS_ROOT/proc/sys/vm"
  echo 20 >"$CHRONOS_ROOT/proc/sys/vm/dirty_ratio"
  write_behind
  assert_equal "$(<"$CHRONOS_ROOT/proc/sys/vm/dirty_ratio")" 80
}

@test "an empty instance store is formatted and mounted; a root volume never is" {
  use
  assert_equal "$(changes)" "mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard $CHRONOS_ROOT/dev/nvme1n1
mount -o noatime,nosuid,nodev $CHRONOS_ROOT/dev/nvme1n1 $CHRONOS_ROOT/data"
}

@test "without an instance store nothing happens" {
  disk nvme1n1 'Amazon Elastic Block Store'
  use
  assert_equal "$(changes)" ''
}

@test "a disk with a file system, or of which that is not known, is left alone" {
  local status
  for status in 0 4 8 127; do
    program blkid "$status"
    use
  done
  rm "$work/bin/blkid"
  use
  assert_equal "$(changes)" ''
}

@test "a disk with a partition, a holder, a mount or swap on it is left alone" {
  mkdir "$CHRONOS_ROOT/sys/block/nvme1n1/nvme1n1p1"
  use
  rmdir "$CHRONOS_ROOT/sys/block/nvme1n1/nvme1n1p1"
  mkdir "$CHRONOS_ROOT/sys/block/nvme1n1/holders/dm-0"
  use
  rmdir "$CHRONOS_ROOT/sys/block/nvme1n1/holders/dm-0"
  echo '/dev/nvme1n1 /mnt ext4 rw 0 0' >"$CHRONOS_ROOT/proc/mounts"
  use
  : >"$CHRONOS_ROOT/proc/mounts"
  echo '/dev/nvme1n1 partition 8 0 -2' >"$CHRONOS_ROOT/proc/swaps"
  use
  assert_equal "$(changes)" ''
}

@test "the second of two is taken when the first is in use" {
  mkdir "$CHRONOS_ROOT/sys/block/nvme1n1/nvme1n1p1"
  disk nvme2n1 'Amazon EC2 NVMe Instance Storage'
  use
  assert_equal "$(changes | tail -n 1)" "mount -o noatime,nosuid,nodev $CHRONOS_ROOT/dev/nvme2n1 $CHRONOS_ROOT/data"
}

@test "what the AMI has mounted itself is used by a folder of it" {
  CHRONOS_ROOT="$BATS_TEST_TMPDIR/disk" # /proc/mounts writes a space otherwise
  mkdir -p "$CHRONOS_ROOT/proc"
  echo "/dev/mapper/vg.01-lv_ephemeral $CHRONOS_ROOT/opt/dlami/nvme ext4 rw 0 0" >"$CHRONOS_ROOT/proc/mounts"
  use_scratch_disk "$CHRONOS_ROOT/data"
  assert_equal "$(changes)" "mount --bind $CHRONOS_ROOT/opt/dlami/nvme/chronos $CHRONOS_ROOT/data"
}

@test "a disk that cannot be formatted or mounted costs the run nothing" {
  program mkfs.ext4 1
  run -0 --separate-stderr use
  # shellcheck disable=SC2154
  [[ $stderr == *'data stay on the root volume'* ]]
  program mkfs.ext4 0
  program mount 32
  run -0 --separate-stderr use
  [[ $stderr == *'data stay on the root volume'* ]]
}
