-- Events that broke the contract and were not published. Each has a suppression, too.

create table dead_letter (
  minute_ts timestamptz not null,
  asset_uid bigint,
  size_bytes bigint not null,
  digest text not null,
  event_id text,
  event_ts text,
  reason text not null,
  payload text not null,
  primary key (minute_ts, digest)
);

comment on table dead_letter is 'events that broke the contract, as in the topic of dead letters';
comment on column dead_letter.minute_ts is
  'close of the minute in which it was to be published [utc, storage]';
comment on column dead_letter.digest is
  'of the line in the topic, so that a minute written twice has it once [sha256, storage]';
comment on column dead_letter.event_id is
  'as the event says, null where it does not [text, dead letter]';
comment on column dead_letter.asset_uid is
  'as the event says, null where it is no integer of 64 bits [id, dead letter]';
comment on column dead_letter.event_ts is
  'exchange_ts as the event says, null where it does not [text, dead letter]';
comment on column dead_letter.reason is
  'where, what was expected, what was found [words, dead letter]';
comment on column dead_letter.size_bytes is 'of the whole payload as text [bytes, dead letter]';
comment on column dead_letter.payload is
  'the event as text; cut where size_bytes says that it was longer [text, dead letter]';
