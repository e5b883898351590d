-- Who holds the lock of try_lock_backfill.sql knows that what is said to run was killed.
update backfill_job set status = 'interrupted', reason = 'killed', finished_at = %(now)s
where status = 'running'
