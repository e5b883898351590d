insert into backfill_job (
  backfill_job_id, kind, since, until, coins, status, started_at, runs, requests,
  minutes_asked, minutes_stored, minutes_missing, minutes_compared, minutes_divergent,
  rejected, divergent
) values (
  %(job_id)s, %(kind)s, %(since)s, %(until)s, %(coins)s, 'running', %(now)s, 1, 0,
  %(asked)s, 0, 0, 0, 0, '{}', '{}'
)
on conflict (backfill_job_id) do update
set status = 'running', reason = null, finished_at = null, runs = backfill_job.runs + 1
returning runs, requests, rejected
