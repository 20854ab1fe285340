"""Trains Chronos-2: our own loop around the library's model, so that a run can be killed and go on.

Nothing is looked up on a network: models come from a folder or from random weights. The variables have to
stand before the libraries are imported.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
