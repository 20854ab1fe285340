# shellcheck shell=bash disable=SC2154,SC2034  # the launch script's variables
# The launch ladder: the pools of $work/pools.json in their order, until one gives an instance. Capacity moves on to the
# next pool; a quota, a permission, a wrong value or an answer that never came stops.
#
# Uses the launch script's variables as pool.sh does, its `write_launch_files`, and sets its `problem` (why no pool gave one).
[[ -n ${_CHRONOS_LADDER:-} ]] && return 0
readonly _CHRONOS_LADDER=1

_ladder_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=pool.sh
source "$_ladder_lib_dir/pool.sh"

# Seconds of the first pause between two rounds, of the longest one, between two looks at the clock; attempts kept in run.json;
# seconds after which user data, which holds the deadline, is written anew.
readonly FIRST_PAUSE=15 LONGEST_PAUSE=240 PAUSE_STEP=2 KEPT_ATTEMPTS=100 FRESH_SECONDS=60

# The attempts that gave no instance (a JSON array). The pool that gave one stands in pool_….
LADDER_ATTEMPTS='[]'
# The pools as the fields of pool_…, how often each was tried, and the last round's refusals in words.
_pools=() _tries=() _refusals=()
# Whether one of them may be answered otherwise later.
_may_wait=false
_files_written_at=$SECONDS

# Prints the setting that a duration stands for. <2h, 30m or 90s>
wait_setting() {
  local seconds
  if ! [[ $1 =~ ^([0-9]{1,6})([hms])$ ]]; then
    log_error "--wait-for-capacity takes a time such as 2h, 30m or 90s, got '$1'"
    return "$EXIT_USAGE"
  fi
  seconds=$((10#${BASH_REMATCH[1]}))
  case ${BASH_REMATCH[2]} in
    h) seconds=$((seconds * 3600)) ;;
    m) seconds=$((seconds * 60)) ;;
  esac
  printf 'wait_for_capacity_minutes=%d.%02d\n' "$((seconds / 60))" "$((seconds % 60 * 100 / 60))"
}

# Reads the ladder of $work/pools.json.
read_ladder() {
  mapfile -t _pools < <(jq -r '.[]
    | [.instance_type, .subnet_id, .zone // "", .market, .quota.code // "", .quota.name // ""] | join("\u001f")' "$work/pools.json")
  if ((${#_pools[@]} == 0)); then
    problem="there is no pool to launch in"
    return "$EXIT_FAILED"
  fi
}

# Makes a pool of the ladder the one in pool_…. <index>
take_pool() {
  IFS=$FIELD_END read -r pool_type pool_subnet pool_zone pool_market pool_quota_code pool_quota_name <<<"${_pools[$1]}"
}

# Prints the call that each pool of the ladder would get.
print_ladder() {
  local index
  local -a run_instances
  read_ladder || return $?
  for index in "${!_pools[@]}"; do
    take_pool "$index"
    plan_run_instances "$(pool_token 1)" || return $?
    printf '# pool %d/%d %s\n' "$((index + 1))" "${#_pools[@]}" "$(pool_words)"
    print_command "${run_instances[@]}"
  done
}

# Prints the pool in pool_… as JSON.
_pool_json() {
  # shellcheck disable=SC2016  # a jq program
  jq -cn --arg type "$pool_type" --arg subnet "$pool_subnet" --arg zone "$pool_zone" --arg market "$pool_market" \
    '{instance_type: $type, subnet_id: $subnet, zone: (if $zone == "" then null else $zone end), market: $market}'
}

# Climbs until a pool gives an instance, then sets instance_id, the pool being that of pool_…. Without one it goes on for
# wait_for_capacity_minutes.   Returns 0; EXIT_LAUNCH_REFUSED with `problem` set; EXIT_RUN_KILLED.
climb_ladder() {
  local end round=1 status
  end=$((SECONDS + $(jq '.wait_for_capacity_minutes * 60 | floor' <<<"$settings")))
  read_ladder || return "$EXIT_LAUNCH_REFUSED"
  while true; do
    status=0
    _try_pools || status=$?
    if ((status != EXIT_FAILED)); then return "$status"; fi
    if ((SECONDS >= end)) || [[ $_may_wait == false ]]; then break; fi
    _wait_for_next_round "$round" "$end" || return $?
    round=$((round + 1))
  done
  _report_no_capacity "$round"
  return "$EXIT_LAUNCH_REFUSED"
}

# One round over all pools. Returns 0; EXIT_FAILED when none has capacity; EXIT_LAUNCH_REFUSED; EXIT_RUN_KILLED.
_try_pools() {
  local index words status skip_spot=false
  _refusals=() _may_wait=false
  for index in "${!_pools[@]}"; do
    take_pool "$index"
    if [[ $skip_spot == true && $pool_market == spot ]]; then continue; fi
    status=0
    keep_claim || status=$?
    if ((status == EXIT_RUN_KILLED)); then return "$status"; fi
    _refresh_files || return "$EXIT_LAUNCH_REFUSED"
    words="pool $((index + 1))/${#_pools[@]} $(pool_words)"
    _tries[index]=$((${_tries[index]:-0} + 1))
    status=0
    try_pool "${_tries[index]}" || status=$?
    if ((status == 0)); then log_info "$words: instance ${instance_ids[*]}"; fi
    if ((status != EXIT_FAILED)); then return "$status"; fi
    _note_attempt "$words"
    if [[ $REFUSAL_LASTS == false ]]; then _may_wait=true; fi
    if [[ $REFUSAL_MOVES_ON == true ]]; then continue; fi
    _refuse "$words" || return $?
    skip_spot=true
  done
  return "$EXIT_FAILED"
}

# Says why the pool gave nothing, and keeps it for the record. <the pool in words>
_note_attempt() {
  local said="$REFUSAL_WORDS (${REFUSAL_CODE:-no answer})"
  log_warn "$1: $said"
  _refusals+=("$(pool_words): $said")
  # shellcheck disable=SC2016  # a jq program
  LADDER_ATTEMPTS=$(jq -c --argjson pool "$(_pool_json)" --arg code "${REFUSAL_CODE:-NoAnswer}" --arg now "$(utc_now)" \
    --arg text "$(plain_error_text "$REFUSAL_TEXT")" --argjson kept "$KEPT_ATTEMPTS" \
    '. + [$pool + {error: "\($code): \($text)", at: $now}] | .[-$kept:]' <<<"$LADDER_ATTEMPTS")
}

# What the instance, its pool and the attempts before it change in run.json; the deadline is that of its user data.
ladder_record() {
  # shellcheck disable=SC2016  # a jq program
  jq -c --argjson attempts "$LADDER_ATTEMPTS" --argjson pool "$(_pool_json)" --args '
    $ARGS.positional as $ids
    | {instance: ({id: $ids[0], type: $pool.instance_type, market: $pool.market} + if ($ids | length) > 1 then {ids: $ids} else {} end),
     pool: $pool, attempts: $attempts, deadline, switches}' \
    "${instance_ids[@]}" <"$work/run.json"
}

# Stops at a refusal that no other pool would mend; says what to do. A quota is its market's own: spot's leaves on-demand.
# <the pool in words>   Returns 0 when the ladder may go on with on-demand; else EXIT_LAUNCH_REFUSED.
_refuse() {
  local text line advice=''
  text=$(plain_error_text "$REFUSAL_TEXT")
  log_error "EC2 says: $text"
  while IFS= read -r line; do
    log_error "$line"
    advice+=" $line."
  done < <(explain_refusal)
  if [[ $REFUSAL_KIND == quota && $pool_market == spot && ${_pools[-1]} == *"${FIELD_END}on-demand$FIELD_END"* ]]; then
    log_warn "spot is at its quota; going on with on-demand"
    return 0
  fi
  problem="EC2 refused the instance: $1: $REFUSAL_WORDS (${REFUSAL_CODE:-no answer}): $text.$advice"
  return "$EXIT_LAUNCH_REFUSED"
}

# User data names the deadline, which counts from the start of the instance and not from that of the search.
_refresh_files() {
  if ((SECONDS - _files_written_at < FRESH_SECONDS)); then return 0; fi
  if ! write_launch_files; then
    problem='the files of the launch could not be written again with a new deadline'
    return "$EXIT_FAILED"
  fi
  _files_written_at=$SECONDS
}

# Prints the seconds to wait after a round: doubling, with half of it left to chance, so that launches do not queue in step.
# <round, from 1>
_pause_seconds() {
  local pause=$((FIRST_PAUSE << ($1 < 6 ? $1 - 1 : 5)))
  if ((pause > LONGEST_PAUSE)); then pause=$LONGEST_PAUSE; fi
  printf '%d\n' "$((pause / 2 + RANDOM % (pause / 2 + 1)))"
}

# Waits in small steps, so that a signal is heard, and keeps the claim. <round> <SECONDS at which the search ends>
# Returns 0 when the next round may begin: never without a claim that was renewed just now, which no network puts off.
# EXIT_RUN_KILLED; EXIT_LAUNCH_REFUSED with `problem` set when the claim could not be renewed to the end.
_wait_for_next_round() {
  local until status
  until=$((SECONDS + $(_pause_seconds "$1")))
  if ((until > $2)); then until=$2; fi
  log_info "no pool has capacity; looking again at $(_clock "$until") ($((until - SECONDS)) s), until $(_clock "$2"). Ctrl-C gives up"
  claim_step=waiting_capacity
  while true; do
    sleep "$PAUSE_STEP"
    if ((SECONDS >= until)); then claim_renewed_at=$NEVER claim_step=launch; fi
    status=0
    keep_claim || status=$?
    if ((status == EXIT_RUN_KILLED || (status == 0 && SECONDS >= until))); then return "$status"; fi
    if ((SECONDS >= $2)); then break; fi
  done
  problem="the claim on $environment could not be renewed while waiting for capacity"
  return "$EXIT_LAUNCH_REFUSED"
}

# A moment of this shell's SECONDS as UTC time of day. <seconds>
_clock() {
  local now TZ=UTC
  printf -v now '%(%s)T' -1
  printf '%(%H:%M:%SZ)T\n' "$((now + $1 - SECONDS))"
}

# <rounds>
_report_no_capacity() {
  local refusal
  log_error "none of ${#_pools[@]} pools has capacity, in $1 round(s):"
  for refusal in "${_refusals[@]}"; do log_error "  $refusal"; done
  log_error "what helps: $(_ways_out)"
  problem="no pool has capacity after $1 round(s): $(printf '%s; ' "${_refusals[@]}")what helps: $(_ways_out)"
}

# What a user whose pools are all empty can do, by what the settings do not use yet.
_ways_out() {
  # shellcheck disable=SC2016  # a jq program
  jq -r --argjson may_wait "$_may_wait" --argjson zones "$(jq 'map(.subnet_id) | unique | length' "$work/pools.json")" '
    [(if $may_wait == false then empty elif .wait_for_capacity_minutes == 0 then "wait with --wait-for-capacity 2h" else "wait longer" end),
     "more types with fallback_instance_types",
     (if $zones < 3 then "more zones (free) with availability_zones: \($zones + 1) and invoke deploy" else empty end),
     (if .market == "on-demand" then "spot with --spot" elif .market == "spot" then "market: spot-then-on-demand" else empty end),
     (if .spot_max_price != "" and .market != "on-demand" then "no spot_max_price" else empty end),
     "another region"] | join("; ")' <<<"$settings"
}
