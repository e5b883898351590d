-- A minute that is written again does not take the hotlist back.
insert into hotlist_state as t ({columns})
select {columns} from {staging}
on conflict (asset_uid) do update
set ({values}) = row ({excluded})
where t.exchange_ts <= excluded.exchange_ts
