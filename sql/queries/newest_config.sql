select config_hash, feature_pack, detector_pack, universe_policy_rev,
  environment, run_mode, emit_events
from config_audit order by changed_at desc limit 1
