"""One card, a few minutes: what runs on it, how fast, and how exactly. See `benchmarks.gpu.__main__`."""
