select (extract(epoch from started_at) * 1000)::bigint as started_ms, feed, cause,
  asset_uid, symbol, (extract(epoch from reconciled_at) * 1000)::bigint as reconciled_ms,
  minutes, minutes_without_candle, minutes_without_row,
  trades_venue, trades_missing, trades_surplus,
  volume_venue_base, volume_missing_base_min, volume_missing_base_max, volume_missing_quote,
  low_missed, high_missed
from gap_reconciliation join gap using (feed, started_at, cause)
where ended_at > %(since)s
order by feed, started_at, cause, asset_uid
