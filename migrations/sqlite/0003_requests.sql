-- What a job asks for, so that a repeat of its id can be told whether it asks for the same. Ours to change. Rows of
-- versions before this one have neither. The names and versions of the migrations are those of ../postgres.
alter table jobs add column request_digest blob;   -- 16 bytes; see src/job/digest.rs
alter table jobs add column ignored text;           -- JSON array: fields of the message that the version did not know
