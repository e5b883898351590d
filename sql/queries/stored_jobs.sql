select to_jsonb(job) from backfill_job as job
order by started_at desc, backfill_job_id
limit %(limit)s
