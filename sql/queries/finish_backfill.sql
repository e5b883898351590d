update backfill_job set
  status = %(status)s, reason = %(reason)s, finished_at = %(now)s, requests = %(requests)s,
  minutes_stored = %(stored)s, minutes_missing = %(missing)s, rejected = %(rejected)s,
  minutes_compared = %(compared)s, minutes_divergent = %(divergent)s, divergent = %(columns)s
where backfill_job_id = %(job_id)s
