# Records of ticks, as operators/layout.py has them.

cdef struct TradeRecord:
    long long arrival_ns
    long long time_ms
    double px
    double sz
    long long is_buy
    long long tid

cdef struct QuoteRecord:
    long long arrival_ns
    long long time_ms
    double bid_px
    double bid_sz
    double ask_px
    double ask_sz

cdef struct BookRecord:
    long long arrival_ns
    long long time_ms
    double sides[20]

cdef struct ContextRecord:
    long long arrival_ns
    double open_interest_base
    double mark_px
    double oracle_px
    double funding_rate
