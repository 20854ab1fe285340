"""Who may do what on the embedded AWS: IAM's identity policies, evaluated.

`policy` decides one question by policies alone, `needs` and `needs_s3` say which questions a call raises,
`callers` say who asks; `gaps/access_control.py` puts it around moto. AWS's rules are in the IAM user guide
("Policy evaluation logic") and the service authorization reference.
"""
