select asset_uid, symbol, tf, exchange_ts, revision, detector_id, reason, severity, state
from suppression
where asset_uid = %(asset_uid)s and tf = %(tf)s
and exchange_ts > %(since)s and exchange_ts <= %(until)s
order by exchange_ts, revision, detector_id
