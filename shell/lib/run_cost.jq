# What a run has cost in US dollars, from its own record. python/chronos_ec2/workstation/run_cost.py computes the same,
# step by step in the same order, and one table of examples is run through both (tests/unit/money/run_costs.json).
#
#   include "run_cost"; with_cost       (jq -L shell/lib)
#
# EC2 bills an instance by the second, 60 at least, from launch to termination. A GB of gp3 is billed for a month of
# 720 hours, as in AWS's own examples. Requests are what the instance has counted, else what such a run makes by rule.

def number: if type == "number" then . else null end;

def object: if type == "object" then . else {} end;

def moment: if type == "string" then (try fromdateiso8601 catch null) else null end;

# Millionths of a dollar; halves up.
def rounded: if . == null then null else . * 1000000 | round / 1000000 end;

# A product or a sum of which one part is not known is not known.
def product($a; $b): if $a == null or $b == null then null else $a * $b end;

def sum($a; $b): if $a == null or $b == null then null else $a + $b end;

# Whether somebody else found that the machine was gone; an interrupted one mostly says it itself.
def ended_unheard: .outcome == "lost" or (.outcome == "interrupted" and .exit_code == null);

# No outside switch lets a machine live longer past its deadline than this, however late it was found to be lost.
def last_switch: (.deadline | moment) as $deadline | if $deadline == null then null else $deadline + 300 end;

def end_of_billing:
  (.ended_at | moment) as $ended
  | last_switch as $last
  | if ended_unheard and $ended != null and $last != null then [$ended, $last] | min else $ended end;

def billed_seconds:
  ((.launched_at | moment) // (.started_at | moment)) as $start
  | end_of_billing as $until
  | if $start == null or $until == null then null else [60, $until - $start] | max end;

# <put or get> <hours>: what was counted, else <kind>_once + <kind>_per_hour * hours.
def requests($kind; $hours):
  (.requests | object | .[$kind] | number) as $counted
  | (.price.request_rates | object) as $rates
  | if $counted != null then $counted
    else sum($rates["\($kind)_once"] | number; product($rates["\($kind)_per_hour"] | number; $hours)) end;

def request_cost($hours):
  sum(product(requests("put"; $hours); .price.put_usd_per_1000 | number);
      product(requests("get"; $hours); .price.get_usd_per_1000 | number))
  | if . == null then null else . / 1000 end;

def disk_cost($hours):
  product(.price.disk_gb | number; .price.disk_usd_per_gb_month | number)
  | if . == null then null else . / 720 * $hours end;

def cost_of($seconds):
  ($seconds / 3600) as $hours
  | {
      compute: (product(.price.compute_usd_per_hour | number; $hours) | rounded),
      disk: (disk_cost($hours) | rounded),
      requests: (request_cost($hours) | rounded),
      address: (product(.price.address_usd_per_hour | number; $hours) | rounded)
    }
  | .total = (sum(sum(sum(.compute; .disk); .requests); .address) | rounded)
  | .seconds = $seconds;

# An end that nobody saw: the last switch had ended the machine by then.
def no_later_than_the_switches:
  (.ended_at | moment) as $ended
  | last_switch as $last
  | if ended_unheard and .end_seen != true and $ended != null and $last != null and $ended > $last then
      .ended_at = ($last | todateiso8601)
    else . end;

# A launch that came, or has come, to no machine cost nothing. Of a lost or killed run that never named one, nobody knows.
def cost:
  (.instance | object | .id) as $id
  | billed_seconds as $seconds
  | if $id == null and (.outcome == "launch_failed" or (.outcome == "running" and .launched_at == null)) then
      {compute: 0, disk: 0, requests: 0, address: 0, total: 0, seconds: 0}
    elif $id == null and (.outcome | IN("lost", "interrupted", "killed")) then null
    elif $seconds == null then null
    else cost_of($seconds) + (if ended_unheard and .end_seen != true then {at_most: true} else {} end) end;

# A run's record with `cost_usd`; without an end, or without prices, as it is.
def with_cost:
  if type != "object" or .ended_at == null or (.price | type) != "object" then .
  else .cost_usd = (try cost catch null) end;
