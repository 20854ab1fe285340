"""`invoke doctor`: looks at everything that a launch needs, and says what mends what is wrong.

A check is a function from `Facts` (what AWS and this machine say, each asked once) to findings. It changes
nothing; the one that tries conditional writes deletes what it wrote. `checkup` has the order and runs them.
"""
