-- One row a multipart upload that a job has begun: what the next run needs to go on with it, and the sweeper to abort it.
-- All of it is ours to change. Times are Unix times in microseconds, sizes are bytes. A row goes when S3 has nothing left of
-- its upload. The names and versions of the migrations are those of ../postgres.
create table uploads (
    job_id       text    not null,
    upload_id    text    not null,         -- S3's
    bucket       text    not null,
    key          text    not null,
    source       text,                     -- identity of the bytes; null: can't be told
    size         integer,                  -- null: not known beforehand
    part_size    integer not null,
    largest_part integer not null,
    started_at   integer not null,
    completed_at integer,                  -- it became the object
    doomed_at    integer,                  -- nobody will go on with it
    swept_until  integer,                  -- a sweeper is at it until then
    primary key (job_id, upload_id)
) strict;
