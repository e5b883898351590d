comment on schema {schema} is {mark}
