# One notice: {subject, message}. $text: run.json, as far as it could be read; $lacking: what it may lack.
# $event: start, end, stall or idle. $env, $run; $prefix: where the results lie; $now: seconds of the epoch.

include "words";

# One line, and no key in it: an error's words are the trainer's own.
def plain:
  tostring | gsub("[[:cntrl:]]+"; " ") | gsub("(AKIA|ASIA)[A-Z0-9]{16}"; "(hidden)")
  | gsub("(?<name>(secret|token|password|signature|credential)[\\w\"'-]*[=:]\\s*)[^\\s&,;]+"; "\(.name)(hidden)"; "i")
  | if length > 1000 then .[:1000] + " ..." else . end;

def moment: if type == "string" then (try fromdateiso8601 catch null) else null end;

def seconds:
  (.started_at | moment) as $start
  | if $start == null then null else ([((.ended_at | moment) // $now) - $start, 0] | max) end;

def interrupted: .outcome == "interrupted" or (.outcome == "failed" and ((.error // "") | startswith("interrupted")));

def late: (.outcome == "failed" or .outcome == "lost") and ((.error // "") | startswith("deadline reached"));

def headline:
  (if .failed_step then " at \(.failed_step)" else "" end) as $where
  | if $event == "start" then "training has begun"
    elif $event == "stall" and .silent_for then "no sign of life for \(.silent_for) at \(.current_step)"
    elif $event == "idle" then "no GPU did anything for \(.idle_minutes) minutes"
    elif $event == "stall" then "no progress for \(.stalled_minutes) minutes at \(.current_step)"
    elif interrupted then "interrupted\($where)"
    elif late then "ended by its deadline\($where)"
    elif .outcome == "launch_failed" then "the launch failed"
    elif .outcome == "succeeded" then "succeeded"
    else "\(.outcome // "ended")\($where)" end;

def cost:
  .price.compute_usd_per_hour as $hourly
  | if .cost_usd.total != null then .cost_usd.total | dollars
    elif $hourly == null or $event == "end" then null
    else "\($hourly | dollars) an hour" + (seconds | if . == null then "" else "; about \(. / 3600 * $hourly | dollars) so far" end) end;

def machine:
  [.pool.instance_type // .instance.type, .pool.market // .instance.market] as $what
  | if .instance.id == null then null else [.instance.id, $what[] | select(. != null)] | join(", ") end;

def next_command:
  if $event == "start" then "invoke watch --env \($env)"
  elif $event == "stall" or $event == "idle" then "invoke logs --env \($env) --run \($run)\nnext: invoke kill --env \($env)"
  elif interrupted or late then
    (if .checkpoint_step != null then $run else .resume_from end) as $from
    | "invoke launch --env \($env)\(if $from then " --resume \($from)" else "" end)"
  elif .outcome == "succeeded" then "invoke fetch --env \($env) --run \($run)"
  elif .outcome == "launch_failed" then "invoke doctor --env \($env)"
  else "invoke logs --env \($env) --run \($run)" end;

def rows:
  ["environment", $env], ["run", $run], ["outcome", .outcome], ["step", .failed_step // .current_step], ["error", .error],
  ["machine", machine], ["began", .started_at], ["lasted", (seconds | if . == null then null else span end)],
  ["ends by", (if $event == "end" then null else .deadline end)], ["cost", cost], ["results", $prefix];

def record: try ($text | fromjson | objects | with_entries(select(.value != null))) catch {};

$lacking * (record // {}) | {
  subject: ("Chronos \($env) \($run): \(headline)\(if $event == "end" and cost then " (\(cost))" else "" end)" | plain | explode | map(select(. >= 32 and . < 127)) | implode | .[:99]),
  message: (
    ["Run \($run) of \($env): \(headline | plain).", ""]
    + [rows | select(.[1] != null) | "\(.[0])\("            "[(.[0] | length):])\(.[1] | plain)"]
    + (if $event == "stall" or $event == "idle" then ["", "Nothing has been ended: look at it, then wait or end it."] else [] end)
    + ["", "next: \(next_command)"] | join("\n")
  )
}
