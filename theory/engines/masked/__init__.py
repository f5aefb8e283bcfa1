r"""Sums over training images under masks: every output has a posterior of its own, from distances over a set of coordinates of its own.

.. math:: \ell_{m,n} = -\frac{1}{2 \sigma_t^2} \sum_{j \in S_m} (q_j - \alpha_t k_{n,j})^2 + \log w_n

No statement of windows that meet (`theory.meetings`) says this, so these sums stand beside the engines of `theory.engines.choice`, which
all take distances with equal weights. `sets` sums rows of a matrix over sets, compiled on the CPU; `sums` makes posteriors of them.
"""
