-- What was said of an upload's object when it began, so that no run completes it with other options than it should have; and
-- what all requests of its job say, so that the sweeper's say it too. Ours to change. Rows of versions before this one have
-- neither. The names and versions of the migrations are those of ../sqlite.
alter table uploads add column said bytea;     -- 32 bytes: two digests, see src/job/upload.rs
alter table uploads add column headers text;   -- JSON object, by name of the header; null: none
