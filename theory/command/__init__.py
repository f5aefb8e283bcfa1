"""The main job, ``python -m theory.solve``: its options, what it measures, what it writes and what it prints."""
