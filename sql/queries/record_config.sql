-- A clock that was set back leaves the line of the same instant as it is.
insert into config_audit (
  changed_at, config_hash, feature_pack, detector_pack, universe_policy_rev,
  environment, run_mode, emit_events, changed_by, diff
) values (
  %(now)s, %(config_hash)s, %(feature_pack)s, %(detector_pack)s, %(universe_policy_rev)s,
  %(environment)s, %(run_mode)s, %(emit_events)s, session_user, %(diff)s
)
on conflict (changed_at, config_hash) do nothing
