"""Quantiles of a stream whose past fades: a histogram of 32 linear bins per power of two.

Rules of this file: the newest sample weighs most, each older one 1/growth of the next (the weight
of new samples grows, so old bins are never touched); sums are correctly rounded or run over sorted
keys, so no result depends on the order in which bins came into being. It is part of the inner
loops (operators/kernel.py).  Numerics 7.
"""

from operators.kernel import Sketch, edges, key

__all__ = ["Sketch", "edges", "key"]
