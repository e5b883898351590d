-- What the market-wide detectors read: the leader's flow, and strength from quarter hour to quarter
-- hour. The latter is on frames of 15m rows alone.
alter table market_snapshot add column if not exists leader_z_vol double precision;
alter table market_snapshot add column if not exists leader_z_vol_before_1 double precision;
alter table market_snapshot add column if not exists leader_z_vol_before_2 double precision;
alter table market_snapshot add column if not exists followers_rs double precision;
alter table market_snapshot add column if not exists followers_rs_before_1 double precision;
alter table market_snapshot add column if not exists followers_rs_before_2 double precision;
alter table market_snapshot add column if not exists sector_leader text;
alter table market_snapshot add column if not exists sector_margin double precision;
alter table market_snapshot add column if not exists sector_former text;
alter table market_snapshot add column if not exists sector_former_rank bigint;
comment on column market_snapshot.leader_z_vol is
  'volume of the leader against what is usual for it, on the frame''s timeframe [sigma, frame]';
comment on column market_snapshot.leader_z_vol_before_1 is
  'leader_z_vol of the same asset one quarter hour before [sigma, frame]';
comment on column market_snapshot.leader_z_vol_before_2 is
  'leader_z_vol of the same asset two quarter hours before [sigma, frame]';
comment on column market_snapshot.followers_rs is
  'median over all but the leader of their mean rs_score_m_5 in the quarter hour [score, frame]';
comment on column market_snapshot.followers_rs_before_1 is
  'followers_rs of the same assets one quarter hour before [score, frame]';
comment on column market_snapshot.followers_rs_before_2 is
  'followers_rs of the same assets two quarter hours before [score, frame]';
comment on column market_snapshot.sector_leader is
  'sector with the highest mean strength in the quarter hour [name, frame]';
comment on column market_snapshot.sector_margin is
  'lead of that sector over the second [score, frame]';
comment on column market_snapshot.sector_former is
  'sector that led one quarter hour before [name, frame]';
comment on column market_snapshot.sector_former_rank is
  'where that sector is now, from 1 [rank, frame]';

-- Level shifts in the ledger: the candidate with which a detector is muted, and the note at its end.
alter table suppression add column if not exists state text;
comment on column suppression.state is
  'level_shift: muted from here on; closed: note at the end of a mute, no candidate [code, ledger]';

-- Which events of a minute have one cause.
alter table anomaly_event add column if not exists incident_id text;
create index if not exists anomaly_event_incident on anomaly_event (incident_id)
  where incident_id is not null;
comment on column anomaly_event.incident_id is
  'events of one cause share it, null for one that stands alone [id, contract 0.1]';
