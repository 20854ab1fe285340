# shellcheck shell=bash disable=SC2154  # environment, assignments and work are the launch script's
# Money in a launch: what it may cost is said before it acts, and what its machine costs is recorded once it has one.
[[ -n ${_CHRONOS_LAUNCH_PRICE:-} ]] && return 0
readonly _CHRONOS_LAUNCH_PRICE=1

_launch_price_lib_dir=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=quick_aws.sh
source "$_launch_price_lib_dir/quick_aws.sh"

# Prints {prices, estimate}, and says the estimate on stderr. Prices that AWS does not tell never fail a launch.
# Returns 0; EXIT_TOO_DEAR when max_cost_usd does not reach.
gather_prices() {
  local item
  local -a argv=(quick_python -m chronos_ec2.workstation.estimate --env "$environment")
  for item in "${assignments[@]}"; do argv+=(--set "$item"); done
  "${argv[@]}"
}

# Prints changes of run.json with the time of the launch and, when they name the pool, its price.
# <json object of changes>
with_launch_price() {
  # shellcheck disable=SC2016  # a jq program
  jq -c --slurpfile prices "$work/prices.json" --arg now "$(utc_now)" '
    .pool as $pool
    | [$prices[0][] | select($pool != null and .instance_type == $pool.instance_type and .market == $pool.market)] as $likely
    | . + {launched_at: $now}
      + ($likely | map(select(.zone == $pool.zone)) + map(select(.zone == null)) | .[:1] | map({price: .}) | add // {})' <<<"$1"
}
