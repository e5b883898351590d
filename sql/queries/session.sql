-- What every connection of ours relies on, whatever the server's defaults are.
set search_path to {schema};
set timezone to 'utc';
set synchronous_commit to on;
