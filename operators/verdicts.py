"""The words for how far a row can be trusted (`quality.py` gives the verdict).  Build plan 8."""

DQ_OK = "ok"
DQ_PARTIAL = "partial"
DQ_STALE = "stale"
