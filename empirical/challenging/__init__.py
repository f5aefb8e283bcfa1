"""Solved scores held against whoever may lie below: where, on what, and what is said of it."""
