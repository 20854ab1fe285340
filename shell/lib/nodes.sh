# shellcheck shell=bash disable=SC2154,SC2034  # bootstrap.sh's variables, and some for it
# One run on several machines, seen from one of them. The first node, 0, owns the state file, the records and the results, as
# the only machine of any other run does; the others train with it, upload their own logs, and go when it goes.
# Reads bootstrap.sh's variables and the CHRONOS_* variables of the user data; CHRONOS_NODES is how many there are.
[[ -n ${_CHRONOS_NODES_LIB:-} ]] && return 0
readonly _CHRONOS_NODES_LIB=1

_nodes_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=instance.sh
source "$_nodes_lib_dir/instance.sh"
# shellcheck source=run_record.sh
source "$_nodes_lib_dir/run_record.sh"
# shellcheck source=companions.sh
source "$_nodes_lib_dir/companions.sh"

# Seconds that the nodes wait for each other before they train; that a failed one looks for another that has gone first.
readonly MEET_SECONDS=900 LOOK_SECONDS=30

node_rank=0
node_address=''
# Where this node's own files lie under the run's prefix (empty: at its root, the first node's), and where the nodes meet.
node_folder=''
node_board=''
# Who has come, and who was lost.
nodes_file="${CHRONOS_ROOT:-}/data/nodes.json"
node_report="${CHRONOS_ROOT:-}/var/log/chronos/lost-node.json"

many_nodes() { ((${CHRONOS_NODES:-1} > 1)); }

# Whether this is the node that owns the run's state and records.
leads() { ((node_rank == 0)); }

# Finds this machine's place: its number is EC2's own, the board is that of the launch that started it.
find_place() {
  local launch attempt
  many_nodes || return 0
  for ((attempt = 0; attempt < 5; attempt++)); do
    if node_rank=$(imds_get meta-data/ami-launch-index) && launch=$(imds_get meta-data/reservation-id) \
      && node_address=$(imds_get meta-data/local-ipv4) && [[ $node_rank =~ ^[0-9]{1,2}$ && -n $launch && -n $node_address ]]; then
      if ! leads; then node_folder="logs/node-$node_rank/"; fi
      node_board="$CHRONOS_ENV/$CHRONOS_RUN_ID/nodes/$launch/"
      log_info "node $node_rank of $CHRONOS_NODES, at $node_address"
      return 0
    fi
    sleep "$attempt"
  done
  log_error "the metadata service does not tell this machine's place among $CHRONOS_NODES nodes"
  return "$EXIT_NOT_AN_INSTANCE"
}

# Prints where this node's log lies under the run's prefix.
log_name() { printf '%sbootstrap.log\n' "${node_folder:-logs/}"; }

# Fills the array `nodes_call`, a command of the nodes. <meet|watch|look> [flags…]
_plan_nodes_call() {
  local what=$1
  shift
  nodes_call=("$venv_python" -m chronos_ec2.instance.nodes "$what" --bucket "$CHRONOS_BUCKET" --prefix "$node_board"
    --nodes "$CHRONOS_NODES" --rank "$node_rank" --report "$node_report")
  if [[ $what != meet ]]; then
    nodes_call+=(--met "$nodes_file" --reason-file "$stop_reason_file" --notice-file "$notice_file")
  fi
  nodes_call+=("$@")
}

# Waits until all nodes are ready to train, and begins to look after them.
meet_nodes() {
  local -a nodes_call
  log_info "waiting for $CHRONOS_NODES nodes"
  _plan_nodes_call meet --instance-id "$INSTANCE_ID" --address "$node_address" --patience "$MEET_SECONDS" --into "$nodes_file"
  run_waiting "${nodes_call[@]}" \
    || fail "the nodes have not come together: $(_fact_of_lost words)" || return $?
  _plan_nodes_call watch --interval "$CHRONOS_HEARTBEAT_SECONDS" --pid $$
  "${nodes_call[@]}" &
  companion_pids+=($!)
  # Not before the watch, whose beats the others wait for: with an S3 that is slow to answer this takes a while.
  if leads; then _record_nodes; fi
}

# Says who trains. The launch does the same, so a failure here loses nothing.
_record_nodes() {
  local ids
  ids=$(jq -c 'map(.instance_id)' "$nodes_file") || return 0
  amend_state "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" "{\"control\": {\"instance_ids\": $ids}}" \
    || log_warn "the state does not name all nodes yet"
  update_run_record "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" "{\"instance\": {\"ids\": $ids}}" \
    || log_warn "run.json does not name all nodes yet"
}

# Prints the wrapper's flags for this node, one a line: the first one keeps the state file, all of several are told their place.
wrapper_flags() {
  if leads; then printf '%s\n' --bucket "$CHRONOS_BUCKET" --env "$CHRONOS_ENV" --run-id "$CHRONOS_RUN_ID"; fi
  if many_nodes; then
    printf '%s\n' --nodes "$CHRONOS_NODES" --node-rank "$node_rank" --master "$(jq -r '.[0] | "\(.address):\(.port)"' "$nodes_file")"
  fi
}

# Sends TERM to the bootstrap when the run has ended without this node: its state is gone, another's, or at an end.
# <pid> <reason file> <seconds between looks>
watch_for_end() {
  trap 'exit 0' TERM
  while true; do
    _pause "$3"
    if _run_has_ended; then
      printf 'lost\n' >"$2"
      kill -TERM "$1" 2>/dev/null || true
      return 0
    fi
  done
}

# Whether the state file says so; one that cannot be read says nothing.
_run_has_ended() {
  local status=0
  read_state "$CHRONOS_BUCKET" "$CHRONOS_ENV" 2>/dev/null || status=$?
  if ((status == EXIT_NO_SUCH_RUN)); then return 0; fi
  # shellcheck disable=SC2016  # a jq program
  ((status == 0)) && jq -e --arg run "$CHRONOS_RUN_ID" \
    '.run_id != $run or (.status | IN("failed", "killed", "cleanup"))' <<<"$STATE_JSON" >/dev/null
}

# Looks for a node that was lost, when this one's training has failed and nothing else says why.
look_for_lost_node() {
  local -a nodes_call
  if [[ -s $nodes_file && ! -s $node_report ]]; then
    _plan_nodes_call look --patience "$LOOK_SECONDS"
    timeout "$((LOOK_SECONDS + 60))" "${nodes_call[@]}" || true
  fi
}

# Prints what is known of the lost node. <rank|reason|words>
_fact_of_lost() { jq -r --arg name "$1" '.[$name] // empty' "$node_report" 2>/dev/null || printf 'see the log\n'; }

# Prints why the run ended with the loss of a node, after what went wrong here, and how it can go on.
explain_lost_node() {
  local way_on="; go on from the newest checkpoint: invoke launch --env $CHRONOS_ENV --resume $CHRONOS_RUN_ID" words
  words=$(_fact_of_lost words)
  # The lost node's own words may end with it too: those of one that has lost another.
  printf '%s%s%s\n' "${problem:+$problem; }" "${words%"$way_on"}" "$way_on"
}

# Says on the board why this node has ended, or is about to. <done|interrupted|another word: failed> [error]
post_end() {
  local file notice=null
  file=$(mktemp) || return 0
  if [[ -s $notice_file ]]; then notice=$(jq -c . "$notice_file" 2>/dev/null) || notice=null; fi
  # shellcheck disable=SC2016  # a jq program
  jq -n --arg reason "$1" --arg error "${2:-}" --arg id "$INSTANCE_ID" --argjson notice "$notice" \
    '{reason: $reason, error: (if $error == "" then null else $error end), instance_id: $id, notice: $notice}' >"$file"
  note_requests P
  timeout 60 aws s3api put-object --bucket "$CHRONOS_BUCKET" --key "$node_board$node_rank.end.json" --body "$file" \
    --content-type application/json --tagging chronos-class=log >/dev/null || log_warn "the other nodes were not told"
  rm -f "$file"
}

# Uploads what a node that does not lead has to show: the log of its training.
save_node_logs() {
  local log="$data/output/logs/training.log"
  if [[ ! -s $log ]]; then return 0; fi
  upload_log "$log" "$CHRONOS_BUCKET" "$CHRONOS_ENV/$CHRONOS_RUN_ID/${node_folder}training.log" \
    || log_warn "the log of the training could not be uploaded"
}

# The end of a node that does not lead: it tells the others, saves its logs and powers off. <exit status>
end_node() {
  local reason='done' words=''
  if (($1 != 0)); then
    reason=failed words=$(explain_end "$1")
    case $(stop_reason) in
      interrupted) reason=interrupted ;;
      lost | killed) words='the run has ended' ;;
    esac
    log_error "node $node_rank ends in phase $phase (exit code $1): $words"
  fi
  post_end "$reason" "$words"
  save_node_logs
  if (($1 != 0)); then settle_for_first_node "$words"; fi
  flush_log
  # What the user data looks at: the first node tells how the run has ended.
  : 2>/dev/null >"$home/told" || true
  timeout 60 aws ec2 terminate-instances --instance-ids "$INSTANCE_ID" >/dev/null || log_warn "terminate-instances failed; powering off does it"
  power_off
}

# The first node is gone by EC2's word and can record nothing any more: its run fails here. Several that do so at once agree.
# <error>
settle_for_first_node() {
  local changes
  if [[ $(_fact_of_lost rank) != 0 || $(_fact_of_lost reason) != gone ]]; then return 0; fi
  log_warn "recording the end of the run for the first node"
  # shellcheck disable=SC2016  # a jq program
  changes=$(jq -cn --arg error "$1" '{error_message: $error}')
  # Refused: somebody has ended the run, and settles it.
  move_run failed "$phase" "$changes" || return 0
  finish_run_record "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" failed "$phase" "$1" "$EXIT_FAILED" "$(told_by_state)" || true
  move_run cleanup cleanup || true
  tell_end failed "$phase" "$1" "$INSTANCE_ID"
  delete_state "$CHRONOS_BUCKET" "$CHRONOS_ENV" "$CHRONOS_RUN_ID" || log_warn "the state file could not be deleted"
}

# Terminates the run's other machines, which have mostly gone by themselves. Each by its own call: EC2 ends none of several when
# it has forgotten one.
end_other_nodes() {
  local id
  many_nodes || return 0
  while read -r id; do
    timeout 60 aws ec2 terminate-instances --instance-ids "$id" >/dev/null || log_warn "$id could not be terminated; it ends itself"
  done < <(timeout 60 aws ec2 describe-instances --output json --filters "Name=tag:RunId,Values=$CHRONOS_RUN_ID" \
    "Name=tag:Environment,Values=$CHRONOS_ENV" Name=instance-state-name,Values=pending,running,stopping,stopped \
    | jq -r --arg own "$INSTANCE_ID" '.Reservations[].Instances[].InstanceId | select(. != $own)')
}

# Prints {requests: …} of all machines from that of this one: the others make about as many.
requests_of_all_nodes() { jq -c --argjson nodes "${CHRONOS_NODES:-1}" 'if .requests then .requests |= map_values(. * $nodes) else . end'; }
