insert into backfill_audit (noted_at, run, backfill_job_id, action, detail)
select %(now)s, runs, backfill_job_id, %(action)s, to_jsonb(job)
from backfill_job as job where backfill_job_id = %(job_id)s
on conflict (backfill_job_id, run, action) do nothing
