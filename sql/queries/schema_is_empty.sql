-- A view or a sequence is somebody's, too.
select not exists (
  select from pg_class where relnamespace = to_regnamespace(quote_ident(%(schema)s))
)
