-- Holes in the recording. A minute that overlaps one is stale.

create table gap (
  started_at timestamptz not null,
  ended_at timestamptz,
  feed text not null,
  cause text not null,
  primary key (feed, started_at, cause)
);

comment on table gap is 'holes in the recording';
comment on column gap.feed is 'recording that has the hole [name, tick log]';
comment on column gap.started_at is 'arrival clock when the feed was lost [utc, tick log]';
comment on column gap.ended_at is
  'arrival clock when it came back, null while it lasts [utc, tick log]';
comment on column gap.cause is 'why, such as disconnect or start [code, tick log]';
