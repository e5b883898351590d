select payload_bytes, payload, shadow from (
  select payload_bytes, payload, emitted_at, event_id, false as shadow from anomaly_event
  where asset_uid = %(asset_uid)s and tf = %(tf)s
  and exchange_ts > %(since)s and exchange_ts <= %(until)s
  union all
  select payload_bytes, payload, emitted_at, event_id, true from shadow_event
  where asset_uid = %(asset_uid)s and tf = %(tf)s
  and exchange_ts > %(since)s and exchange_ts <= %(until)s
) as found
order by emitted_at, event_id
