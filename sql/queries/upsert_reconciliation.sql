insert into gap_reconciliation as t
select * from jsonb_populate_recordset(null::gap_reconciliation, %(rows)s)
on conflict (feed, started_at, cause, asset_uid) do update
set (symbol, reconciled_at, minutes, minutes_without_candle, minutes_without_row,
  trades_venue, trades_missing, trades_surplus, volume_venue_base,
  volume_missing_base_min, volume_missing_base_max, volume_missing_quote,
  low_missed, high_missed)
= (excluded.symbol, excluded.reconciled_at, excluded.minutes, excluded.minutes_without_candle,
  excluded.minutes_without_row, excluded.trades_venue, excluded.trades_missing,
  excluded.trades_surplus, excluded.volume_venue_base, excluded.volume_missing_base_min,
  excluded.volume_missing_base_max, excluded.volume_missing_quote, excluded.low_missed,
  excluded.high_missed)
