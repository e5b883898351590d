select asset_uid, symbol, tf, exchange_ts, revision, detector_id, reason, severity, state
from suppression
where exchange_ts > %(since)s and exchange_ts <= %(until)s
order by exchange_ts, asset_uid, tf, revision, detector_id
