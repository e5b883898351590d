select changed_at, config_hash, run_mode, emit_events from config_audit order by changed_at
