# Numbers in words for people.   include "words"; (jq -L shell/lib)

def two: tostring | if length < 2 then "0" + . else . end;

# Seconds for a person, as words.py writes them.
def span:
  floor | if . < 60 then "\(.) s" elif . < 3600 then "\(. / 60 | floor) min \(. % 60 | two) s"
  else "\(. / 3600 | floor) h \(. % 3600 / 60 | floor | two) min" end;

def dollars:
  (. * 100 | round) as $cents
  | if $cents == 0 and . > 0 then "less than $0.01" else "$\($cents / 100 | floor).\($cents % 100 | two)" end;
