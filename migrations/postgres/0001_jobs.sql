-- One row a job id. The columns of CONTRACT.md section 4 are interface; all others, and the indexes, are ours to change.
-- Times are Unix times in microseconds. The names and versions of the migrations are those of ../sqlite.
-- Texts are compared byte by byte: lists page by id, and a prefix of keys is a range.
create table jobs (
    -- Interface.
    id            text   collate "C" not null primary key,
    lane          text   collate "C" not null,
    operation     text   collate "C" not null,
    bucket        text   collate "C" not null check (bucket <> ''),
    key           text   collate "C",
    state         text   collate "C" not null,
    attempts      bigint not null,
    error_class   text   collate "C",
    error_code    text   collate "C",
    error_message text,
    result        jsonb,
    enqueued_at   bigint not null,
    started_at    bigint not null,              -- the first claim
    finished_at   bigint,                       -- in final states only
    worker        text   not null,              -- of the last claim
    -- Ours.
    request_id    text,                         -- S3's, of the last error
    failed_attempts text,                       -- a line an attempt, the newest first; see src/job/attempts.rs
    owner         text   not null,              -- of the last claim: the worker and its start
    fence         bigint not null,              -- grows with every claim
    leased_until  bigint,                       -- while running
    parks         bigint not null,
    panics        bigint not null,
    unfinished    bigint not null,              -- claims that their worker never finished
    replay        bigint not null,
    age_from      bigint not null,              -- enqueued_at, or the last replay
    buried_at     bigint                        -- when the letter was known to be in the dead queue
) with (
    -- Every job leaves a dead row version behind: clear them away before they are a fifth of the table.
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

-- One index for each filter of `jobs list`, each in the list's order: a filter is a range of one index, read backwards.
-- After that order come the columns of other filters, so that several filters together are checked within one
-- index: by_state has them all, by_code all but the state, and so on. A lane is its operations.
create index jobs_by_time on jobs (enqueued_at, id);
create index jobs_by_state on jobs (state, enqueued_at, id, operation, bucket, error_code, key);
create index jobs_by_code on jobs (error_code, enqueued_at, id, operation, bucket, key) where error_code is not null;
create index jobs_by_key on jobs (key, enqueued_at, id, operation, bucket) where key is not null;
create index jobs_by_bucket on jobs (bucket, enqueued_at, id, operation);
create index jobs_by_operation on jobs (operation, enqueued_at, id);
-- For retention.
create index jobs_by_finish on jobs (finished_at) where finished_at is not null;

-- What a probe writes, to learn whether the ledger can be written.
create table ledger_probe (
    id        bigint not null primary key check (id = 1),
    probed_at bigint not null
);
