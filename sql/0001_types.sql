-- Closed vocabularies. They are domains over text: a new word is an added check, not a new type.

create domain timeframe as text
  constraint timeframe_word check (value in ('1m', '15m', '1h'));
comment on domain timeframe is 'length of a bar';

create domain dq_verdict as text
  constraint dq_verdict_word check (value in ('ok', 'partial', 'stale'));
comment on domain dq_verdict is 'data quality of a minute, best first';

create domain event_class as text
  constraint event_class_word check (
    value in ('spike', 'shift', 'quadrant', 'divergence', 'synchrony', 'rotation')
  );
comment on domain event_class is 'family of a detector';
