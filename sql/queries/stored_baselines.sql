select asset_uid, tf, feature_name, feature_pack, updated_at, n_samples, quantile_state
from baseline_state
order by asset_uid, tf, feature_name
