-- Asset by asset along the primary key: a range of time alone would read the whole table.
with recursive asset as (
  (select asset_uid from features_snapshot where tf = '1m' order by asset_uid limit 1)
  union all
  select (
    select f.asset_uid from features_snapshot f
    where f.tf = '1m' and f.asset_uid > asset.asset_uid
    order by f.asset_uid limit 1
  )
  from asset where asset.asset_uid is not null
)
select min(bounds.oldest) as oldest, max(bounds.newest) as newest
from asset, lateral (
  select min(exchange_ts) as oldest, max(exchange_ts) as newest
  from features_snapshot f where f.tf = '1m' and f.asset_uid = asset.asset_uid
) as bounds
