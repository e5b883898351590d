-- To the end of the transaction, so that what is made has one owner, whoever makes it.
select set_config('role', pg_get_userbyid(relowner), true)
from pg_class
where oid = to_regclass(quote_ident(%(name)s)) and pg_get_userbyid(relowner) <> current_user
