create temp table if not exists {staging} (like {table}) on commit delete rows
