-- Frame columns on trial, as extras_json of the rows.
alter table market_snapshot add column if not exists extras_json jsonb;
comment on column market_snapshot.extras_json is
  'what is on trial and has no typed column; null: a frame from before there was any [json, frame]';
