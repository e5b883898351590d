-- Held to the end of the transaction: one process at a time changes the tables of a schema.
select pg_advisory_xact_lock(hashtextextended('alpha-detector schema ' || %(schema)s, 0))
