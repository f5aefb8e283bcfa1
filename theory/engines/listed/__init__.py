"""Sums of listed candidates.

Queries and keys are cut out of images (`problems`) and read in pieces or merged once (`source`). `dense` keeps every logit and can be
differentiated, `stream` runs through the keys in pieces within a memory budget, `fused` sums in one kernel on a GPU; triton is loaded
when it is needed.
"""
