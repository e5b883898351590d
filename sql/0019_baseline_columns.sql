-- Said more exactly: the first samples are collected before there is a location and a scale.

comment on column baseline_state.mu is
  'location, of the value as transformed; null: too few samples for a z [transformed units, feature pack]';
comment on column baseline_state.sigma is
  'scale, of the value as transformed; null: too few samples for a z [transformed units, feature pack]';
comment on column baseline_state.updated_at is
  'close of the newest bar that moved it [utc, feature pack]';
comment on column baseline_state.feature_name is
  'column it is a baseline of, named as on rows of its timeframe [name, feature pack]';
