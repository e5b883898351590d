-- Someone who reads for hours holds up a detach, but not who waits for it.
select set_config('statement_timeout', %(ms)s::text, false)
