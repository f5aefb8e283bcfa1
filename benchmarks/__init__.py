"""Measured ratios against named peers and hardware limits. Never run as tests."""
