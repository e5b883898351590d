select payload_bytes, payload, shadow from (
  select payload_bytes, payload, exchange_ts, emitted_at, event_id, false as shadow
  from anomaly_event where exchange_ts > %(since)s and exchange_ts <= %(until)s
  union all
  select payload_bytes, payload, exchange_ts, emitted_at, event_id, true
  from shadow_event where exchange_ts > %(since)s and exchange_ts <= %(until)s
) as found
order by exchange_ts, emitted_at, event_id
