-- One row a multipart upload that a job has begun: what the next run needs to go on with it, and the sweeper to abort it.
-- All of it is ours to change. Times are Unix times in microseconds, sizes are bytes. A row goes when S3 has nothing left of
-- its upload. The names and versions of the migrations are those of ../sqlite.
create table uploads (
    job_id       text   collate "C" not null,
    upload_id    text   collate "C" not null,   -- S3's
    bucket       text   collate "C" not null,
    key          text   collate "C" not null,
    source       text   collate "C",            -- identity of the bytes; null: can't be told
    size         bigint,                        -- null: not known beforehand
    part_size    bigint not null,
    largest_part bigint not null,
    started_at   bigint not null,
    completed_at bigint,                        -- it became the object
    doomed_at    bigint,                        -- nobody will go on with it
    swept_until  bigint,                        -- a sweeper is at it until then
    primary key (job_id, upload_id)
);
