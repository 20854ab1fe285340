"""Measures the machine beside the training until TERM, and sends the run's metrics to S3 in parts.

usage: python -m chronos_ec2.instance.sampler --output DIR --bucket B --prefix ENV/RUN_ID/
           [--sample-seconds N] [--upload-seconds N] [--phase-file FILE] [--idle-file FILE] [--idle-minutes N]
           [--kmsg DEVICE]

Samples are appended to DIR/metrics.jsonl, where the wrapper puts the trainer's events (docs/metrics.md). When
no GPU did anything for --idle-minutes of training, the minutes go into --idle-file; what becomes of it is for
others. The kernel's messages about GPUs go to stderr as well, and so into the run's log. A run needs no
sample: nothing that fails here ends anything, each trouble is said once, and TERM ends it at once.

Exit: 0 ended by TERM, or with its parent; 1 the training environment lacks psutil; 2 usage.
"""

from __future__ import annotations

import sys

from chronos_ec2.instance.sampler.loop import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
