-- Events of detectors or runs that are on trial, and with which mode a program published.

create table shadow_event (like anomaly_event including all);

comment on table shadow_event is
  'events as they would have been published: detectors in mode shadow or canary, and runs in those modes; insert only';

alter table config_audit
  add column run_mode text,
  add column emit_events boolean;

comment on column config_audit.run_mode is
  'mode of the run; null: before it was noted [dry_run|shadow|canary|prod|replay, operator]';
comment on column config_audit.emit_events is
  'the kill switch is not thrown; null: before it was noted [bool, operator]';
