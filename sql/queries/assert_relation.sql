-- An error where there is no relation of this name.
select quote_ident(%(name)s)::regclass
