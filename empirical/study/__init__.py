"""The studies that ``python -m empirical.reproduce`` runs: their jobs, their reports and their tables."""
