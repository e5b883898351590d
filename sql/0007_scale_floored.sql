-- Which baselines sit on the floor of their scale (numerics reference 2).
alter table features_snapshot add column if not exists scale_floored text[];
comment on column features_snapshot.scale_floored is
  'features whose scale is at its floor s_min; null: never; empty when none [features, pack v1.0]';
