-- The lock of lock_schema.sql, held by the session: a concurrent detach runs in no transaction.
select pg_try_advisory_lock(hashtextextended('alpha-detector schema ' || %(schema)s, 0))
