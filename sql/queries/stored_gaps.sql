select (extract(epoch from started_at) * 1000)::bigint,
  (extract(epoch from ended_at) * 1000)::bigint, cause, feed
from gap
where ended_at is null or ended_at > %(since)s
order by feed, started_at, cause
