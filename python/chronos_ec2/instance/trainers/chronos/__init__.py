"""Trains Chronos-2 by a network and a loop of our own, so that a run can be killed and go on.

Nothing is looked up on a network: models come from a folder or from random weights.
"""
