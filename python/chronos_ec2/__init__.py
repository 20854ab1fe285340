"""Chronos EC2 Training: one EC2 instance that appears, trains, saves to S3 and is gone.

Rooms: `state` is shared; `instance` runs on the rented machine; `workstation` runs on the laptop;
`local_cloud` is the embedded AWS. `instance` and `workstation` never import each other.
"""
