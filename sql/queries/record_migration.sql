insert into schema_migration (number, name, sha256)
values (%(number)s, %(name)s, %(sha256)s)
