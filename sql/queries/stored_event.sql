select payload_bytes, payload, false as shadow from anomaly_event where event_id = %(event_id)s
union all
select payload_bytes, payload, true from shadow_event where event_id = %(event_id)s
