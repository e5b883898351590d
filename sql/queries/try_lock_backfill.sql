-- Held by the session: one backfill at a time in a schema, also because they share a rate limit.
select pg_try_advisory_lock(hashtextextended('alpha-detector backfill ' || %(schema)s, 0))
