"""Price and volatility columns from prints and mids.  Build plan 5.1, Appendix A.2.

They are part of every minute and so of the inner loops.
"""

from operators.kernel import range_ratio, realized_volatility, simple_return

__all__ = ["range_ratio", "realized_volatility", "simple_return"]
