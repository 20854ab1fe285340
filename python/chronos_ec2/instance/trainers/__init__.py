"""Trainers that run on the instance.

A linear map is too small for a second thread to help, and one thread adds numbers in one order: so NumPy's
BLAS gets one, before anything imports NumPy, and a resumed run ends with the very bytes of one that was
never interrupted. `OPENBLAS_NUM_THREADS` in the environment overrides it.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
