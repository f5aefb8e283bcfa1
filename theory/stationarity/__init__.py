"""The best score of a CNN with an attention head: stationarity conditions and their numerical solution."""

from theory.stationarity.families import DEFAULT, FAMILIES, Family, family
from theory.stationarity.options import Options
from theory.stationarity.run import Plan, solve
from theory.stationarity.solution import Setting, SolvedScore, Split

__all__ = ["DEFAULT", "FAMILIES", "Family", "Options", "Plan", "Setting", "SolvedScore", "Split", "family", "solve"]
