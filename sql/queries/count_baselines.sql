select count(distinct asset_uid), max(updated_at) from baseline_state
