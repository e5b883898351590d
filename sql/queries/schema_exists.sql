-- Asked first, because `create schema if not exists` needs the right to create even when it exists.
select to_regnamespace(quote_ident(%(schema)s)) is not null
