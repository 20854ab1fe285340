"""A run as one page: read what a run has left, choose what to show, write HTML that needs nothing else."""
