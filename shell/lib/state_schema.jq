# Prints what is wrong with a state file, nothing when it is right. Input: the state; $table: state_machine.json.

# The kind of a value: its type, or `strings` for a list of nothing else.
def kind: if type == "array" and all(.[]; type == "string") then "strings" else type end;

def problems($where; $fields):
  . as $body
  | $fields
  | to_entries[]
  | .key as $name
  | .value as $kinds
  | if ($body | has($name) | not) then "\($where)\($name) is missing"
    elif ($kinds | index($body[$name] | kind)) == null then
      "\($where)\($name) is \($body[$name] | type), expected \($kinds | join(" or ") | sub("strings"; "array of strings"))"
    else empty end;

def nested_problems($table):
  . as $body
  | ($table.nested_fields | to_entries[]),
    # What may be left out is looked at where it is there.
    ($table.optional_fields | to_entries[] | .key as $name
      | .value |= with_entries(select(.key as $field | $body[$name] | has($field))))
  | .key as $name
  | .value as $fields
  | $body[$name]
  | problems("\($name)."; $fields);

# What goes into calls and loops has a form as well: an id that is a flag would be one of the AWS CLI's.
def form_problems($where; $patterns):
  to_entries[]
  | ($where + .key) as $name
  | select(.value != null and ($patterns | has($name)))
  | .value
  | if type == "array" then .[] else . end
  | select(tostring | test("\\A(?:\($patterns[$name]))\\z") | not)
  | "\($name) is \(tojson | .[:80]), expected \($patterns[$name])";

# Unknown fields are carried along; a version that is not known may mean other things by the known ones.
def version_problem($known):
  (.control | if type == "object" then .schema_version else null end) as $version
  | if $version == null then empty
    elif ($version | type) != "number" or $version != ($version | floor) then
      "control.schema_version is \($version | tojson), expected a whole number"
    elif $version > $known then
      "schema \($version) of a newer version of this project, this one knows \($known): update it"
    else empty end;

$table[0] as $table
| if type != "object" then "expected an object, got \(type)"
  elif [version_problem($table.schema_version)] != [] then version_problem($table.schema_version)
  else
    . as $body
    | [problems(""; $table.fields)]
    + (if (.timestamps | type) == "object" and (.control | type) == "object" then [nested_problems($table)] else [] end)
    + (.status? as $status
       | if ($status | type) != "string" or ($table.transitions | has($status)) then []
         else ["unknown status \($status)"] end)
    | if . != [] then .[]
      else ($body | form_problems(""; $table.patterns)), ($body.control | form_problems("control."; $table.patterns)) end
  end
