-- What this pack or an earlier one had and this one has not; later packs are left as they are.
update {table}
set deprecated_at = %(now)s
where deprecated_at is null
and string_to_array(ltrim({version}, 'v'), '.')::int[]
  <= string_to_array(ltrim(%(pack)s, 'v'), '.')::int[]
and {name} <> all (%(names)s)
