select obj_description(to_regnamespace(quote_ident(%(schema)s)), 'pg_namespace')
