#!/usr/bin/env bats
# shell/lib/prefetch.sh: what goes on behind the phases, and ends with them.
# shellcheck disable=SC2030,SC2031,SC2154  # variables of the libraries and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  export CHRONOS_BUCKET=a-bucket CHRONOS_DATASET_SHA256
  export CHRONOS_ENVIRONMENT_ARCHIVE=venv.squashfs CHRONOS_ENVIRONMENT_PIECES_SHA256=other
  mkdir -p "$work/bin" "$work/data"
  PATH="$work/bin:$PATH"
  # shellcheck disable=SC2016  # the program's own
  program s5cmd 'shift 6; case $1 in cat) cat "$0.manifest" ;; --log) cat "$0.listing" ;; *) cat "$2" >>"$0.ran" ;; esac'
  manifest '{"files": [{"name": "a.parquet"}, {"name": "b-1.parquet"}]}'
  listing a.parquet
  # shellcheck source=../../../shell/lib/phases.sh
  source "$project/shell/lib/phases.sh"
}

teardown() { common_teardown; }

# A program of the machine. <name> <its text>
program() {
  printf '#!/usr/bin/env bash\n%s\n' "$2" >"$work/bin/$1"
  chmod +x "$work/bin/$1"
}

# <text>
manifest() {
  printf '%s' "$1" >"$work/bin/s5cmd.manifest"
  CHRONOS_DATASET_SHA256=$(sha256sum <"$work/bin/s5cmd.manifest" | cut -d' ' -f1)
}

# What the bucket holds. <names…>
listing() {
  local name
  for name in MANIFEST.json "$@"; do printf '2026/11/28 12:00:00             64000  %s\n' "$name"; done >"$work/bin/s5cmd.listing"
}

prefetch() {
  begin_prefetch "$work/data"
  if [[ -n ${behind[prefetch]:-} ]]; then finish prefetch; fi
}

ran() { cat "$work/bin/s5cmd.ran" 2>/dev/null || true; }

@test "what the bucket holds is taken as it is listed where it is what the manifest names" {
  listing b-1.parquet a.parquet
  prefetch
  assert_equal "$(ran)" \
    "cp --concurrency 8 --exclude \"*/*\" --exclude \".*\" --exclude MANIFEST.json \"s3://a-bucket/cached-datasets/training-data/*\" \"$work/data/\""
}

@test "otherwise each file that the launch's manifest names comes to its own place" {
  local other
  for other in '' 'a.parquet' 'a.parquet b-1.parquet c.parquet' 'a.parquet b-1.parquetx'; do
    # shellcheck disable=SC2086  # the names
    listing $other
    rm -f "$work/bin/s5cmd.ran"
    prefetch
    assert_equal "$(ran | wc -l)" 2
  done
  listing a.parquet 'b-1.parquet b-1.parquet'
  rm -f "$work/bin/s5cmd.ran"
  prefetch
  assert_equal "$(ran)" "cp --raw --concurrency 8 \"s3://a-bucket/cached-datasets/training-data/a.parquet\" \"$work/data/a.parquet\"
cp --raw --concurrency 8 \"s3://a-bucket/cached-datasets/training-data/b-1.parquet\" \"$work/data/b-1.parquet\""
}

@test "names that a line could be misread from are left to the sync" {
  manifest '{"files": [{"name": "../x"}, {"name": "a b"}, {"name": "q\"; rm"}, {"name": "*"}, {"name": ".tmp-a"}, {"name": "ok"}]}'
  prefetch
  assert_equal "$(ran | wc -l)" 1
  assert_regex "$(ran)" '/ok"$'
}

@test "without a name that can be taken, and without a listing, nothing is copied" {
  manifest '{"files": [{"name": "a b"}]}'
  rm "$work/bin/s5cmd.listing"
  prefetch
  assert_equal "$(ran)" ''
}

@test "few files come in more parts at once than many" {
  local count
  for count in 1 5 40; do
    manifest "$(jq -cn --argjson n "$count" '{files: [range($n) | {name: "f\(.)"}]}')"
    rm -f "$work/bin/s5cmd.ran"
    prefetch
    ran | head -n 1 | cut -d' ' -f4 >>"$work/parts"
  done
  assert_equal "$(<"$work/parts")" $'8\n6\n1'
}

@test "another manifest than the launch's fetches nothing" {
  CHRONOS_DATASET_SHA256=aaaa
  prefetch
  assert_equal "$(ran)" ''
}

@test "without s5cmd, and with one that fails, the run goes on" {
  program s5cmd 'exit 1'
  prefetch
  rm "$work/bin/s5cmd"
  prefetch
  assert_equal "$(ran)" ''
}

@test "the data wait for the environment's bytes, but not for its digest" {
  # shellcheck disable=SC2016  # the program's own
  program s5cmd 'case $* in
    *python-env*) sleep 0.5; echo environment | tee "${!#}" >>"$0.order" ;;
    *" cat "*) cat "$0.manifest" ;;
    *" run "*) echo data >>"$0.order" ;;
  esac'
  # shellcheck disable=SC2016  # the program's own
  program python3 'order="${0%/*}/s5cmd.order"
    for ((look = 0; look < 300; look++)); do if grep -q data "$order"; then break; fi; sleep 0.1; done
    echo digest >>"$order"; echo other-than-the-launchs'
  begin_environment "$work/archives"
  begin_prefetch "$work/data"
  finish prefetch
  finish environment || assert_equal $? 2
  assert_equal "$(<"$work/bin/s5cmd.order")" $'environment\ndata\ndigest'
}

@test "the data's programs give way to others where cores are short" {
  # shellcheck disable=SC2016  # the program's own
  program s5cmd 'shift 6; case $1 in cat) cat "$0.manifest" ;; run) nice >"$0.nice" ;; esac'
  prefetch
  assert_equal "$(<"$work/bin/s5cmd.nice")" "$(($(nice) + 10))"
}

@test "an environment that cannot be fetched holds no data back" {
  use_fake_s3 a-bucket
  # shellcheck disable=SC2016  # the program's own
  program s5cmd 'case $* in
    *python-env*) exit 1 ;;
    *" cat "*) cat "$0.manifest" ;;
    *" run "*) echo data >>"$0.order" ;;
  esac'
  begin_environment "$work/archives"
  begin_prefetch "$work/data"
  finish prefetch
  assert_equal "$(<"$work/bin/s5cmd.order")" data
}

@test "the sync begins when the prefetch has ended, and its status is its own" {
  # shellcheck disable=SC2016  # the program's own
  program s5cmd 'shift 6; case $1 in cat) cat "$0.manifest" ;; run) sleep 0.3; echo prefetch >>"$0.order" ;; esac'
  local status=0 sync=(bash -c "echo sync >>'$work/bin/s5cmd.order'; exit 19")
  begin_prefetch "$work/data"
  begin_data_sync "${sync[@]}"
  finish_data_sync "${sync[@]}" || status=$?
  assert_equal "$status" 19
  assert_equal "$(<"$work/bin/s5cmd.order")" $'prefetch\nsync'
}

@test "a process that has got the prefetch's id does not hold the sync back" {
  local other
  prefetch
  other=$(
    sleep 60 >/dev/null 3>&- &
    echo "$!"
  )
  behind[prefetch]=$other
  begin_data_sync touch synced 3>&-
  for _ in {1..100}; do
    if [[ -e synced ]]; then break; fi
    sleep 0.05
  done
  end_children "${behind[data_sync]}"
  kill "$other"
  assert [ -e synced ]
}

@test "a prefetch that was killed does not hold the sync back" {
  # shellcheck disable=SC2016  # the program's own
  program s5cmd 'touch "$0.begun"; exec sleep 60'
  begin_prefetch "$work/data" 3>&-
  while [[ ! -e $work/bin/s5cmd.begun ]]; do sleep 0.05; done
  begin_data_sync touch synced 3>&-
  pkill -KILL -P "${behind[prefetch]}"
  kill -KILL "${behind[prefetch]}"
  finish_data_sync touch synced
  assert [ -e synced ]
}

# An early end in the middle of what s5cmd does with one thing. <what it is asked for>
end_early() {
  local attempt left
  rm -f "$work/bin/s5cmd.begun"
  # shellcheck disable=SC2016  # the program's own
  program s5cmd 'case $* in '"$1"') touch "$0.begun"; exec sleep 61 ;; *python-env*) : >"${!#}" ;; *" cat "*) cat "$0.manifest" ;; esac'
  # shellcheck disable=SC2016  # for the other shell
  setsid bash -c 'set -Eeuo pipefail; source "$1/shell/lib/phases.sh"
    begin_environment "$2/archives"; begin_prefetch "$2/data"; begin_data_sync sleep 62
    while [[ ! -e $2/bin/s5cmd.begun ]]; do sleep 0.05; done; stop_background' _ "$project" "$work" 3>&- &
  wait "$!"
  for ((attempt = 0; attempt < 100; attempt++)); do
    left=$(pgrep -a -s "$!" -r D,R,S,T || true)
    if [[ -z $left ]]; then return 0; fi
    sleep 0.1
  done
  fail "still running: $left"
}

@test "an early end leaves no process" {
  end_early '*python-env*'
  end_early '*" run "*'
}

@test "an early end in the middle of the digest leaves no process, and does not wait for it" {
  local attempt left began=$SECONDS
  # shellcheck disable=SC2016  # the program's own
  program s5cmd 'case $* in *python-env*) echo environment >"${!#}" ;; *" cat "*) cat "$0.manifest" ;; esac'
  # shellcheck disable=SC2016  # the program's own
  program python3 'touch "$0.begun"; exec sleep 60'
  # shellcheck disable=SC2016  # for the other shell
  setsid bash -c 'set -Eeuo pipefail; source "$1/shell/lib/phases.sh"
    begin_environment "$2/archives"
    while [[ ! -e $2/bin/python3.begun ]]; do sleep 0.05; done; stop_background' _ "$project" "$work" 3>&- &
  wait "$!"
  for ((attempt = 0; attempt < 100; attempt++)); do
    left=$(pgrep -a -s "$!" -r D,R,S,T || true)
    if [[ -z $left ]]; then break; fi
    sleep 0.1
  done
  assert_equal "$left" ''
  assert [ "$((SECONDS - began))" -lt 40 ]
}
