"""Keys in clusters on the CPU: the posterior mean of a value and of the cluster in one pass over blocks of alike keys.

`sums` prepares keys and cuts the work, `kernel` has the compiled loops.
"""
