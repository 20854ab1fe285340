#!/usr/bin/env python3
"""Validate GPU and environment before training; see `chronos_ec2.instance.preflight` for the checks.

Python puts this file's folder on its path, and `chronos_ec2` lies beside it both in the repository and
on the instance.
"""

from __future__ import annotations

import sys

from chronos_ec2.instance.preflight import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
