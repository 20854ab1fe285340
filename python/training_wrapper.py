#!/usr/bin/env python3
"""Execute training with state management; see `chronos_ec2.instance.wrapper`.

Python puts this file's folder on its path, and `chronos_ec2` lies beside it both in the repository and
on the instance.
"""

from __future__ import annotations

import sys

from chronos_ec2.instance.wrapper import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
