//! The seam to the SQL ledger: one row a job, the source of "once".
//!
//! [`Ledger`] is the batch interface that every database implements and one contract suite checks;
//! `writer::LedgerWriter` groups single claims and commits into batches for the lanes. What a row
//! means for a claim is decided once, in `decision.rs`, for every database. Nothing outside this
//! folder knows SQL.

mod batch;
#[cfg(test)]
mod contract_tests;
mod decision;
mod limits;
mod listing;
#[cfg(test)]
pub(crate) mod memory;
mod migrations;
mod next_try;
pub mod postgres;
mod record;
pub mod sqlite;
mod trouble;
mod uploads;
pub mod writer;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use next_try::NextTry;
use postgres::PostgresLedger;
use sqlite::SqliteLedger;

use crate::job::{
    AttemptLog, BegunUpload, FailedAttempt, Failure, Headers, JobId, Lane, OperationName, Report,
    RequestDigest, State, Timestamp, UploadNote, report::ReportedError,
};

/// A SQL database that keeps the jobs. All times are the database's.
#[async_trait]
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// Claims jobs, a batch for the price of one. No id stands in it twice. Answers in the order of the requests.
    /// After an error some may be claimed all the same: their owner may claim them again, which counts as no
    /// unfinished claim.
    async fn claim(&self, requests: &[ClaimRequest]) -> Result<Vec<Claim>, LedgerError>;

    /// Records endings in one transaction. No id stands in it twice. Answers in the order given. An ending
    /// may be given again when the answer was lost: as long as nobody has claimed the job since, it is recorded.
    async fn commit(&self, endings: &[Ending]) -> Result<Vec<Committed>, LedgerError>;

    /// Lengthens leases; `false` for each that is no longer held with that fence.
    async fn renew(&self, held: &[(JobId, Fence)]) -> Result<Vec<bool>, LedgerError>;

    /// Notes that the copies of these dead letters are in the dead queue.
    async fn note_buried(&self, held: &[(JobId, Fence)]) -> Result<(), LedgerError>;

    /// One job, if it is known.
    async fn get(&self, id: &JobId) -> Result<Option<JobRecord>, LedgerError>;

    /// Jobs by filter, newest `enqueued_at` first, keyset paged.
    async fn list(&self, filter: &JobFilter) -> Result<Page, LedgerError>;

    /// Jobs counted by lane, state and error code. Reads every row: for people, not for a hot path.
    async fn stats(&self) -> Result<Vec<StatRow>, LedgerError>;

    /// Deletes at most `limit` rows of jobs that ended more than `retention` ago, the oldest first; says how many
    /// went.
    async fn purge(&self, retention: Duration, limit: u32) -> Result<u64, LedgerError>;

    /// Deletes at most `limit` unfinished rows that nobody has held for `retention`; says how many went. A job that
    /// lives is claimed again sooner, or waits in its queue; one that RabbitMQ let go of unseen (a purged queue,
    /// `expiration`, the delivery limit) never is. Should it come after all, it is new, with the counts that its
    /// delivery carries. Unfinished rows of `delete_prefix` stay.
    async fn purge_lost(&self, retention: Duration, limit: u32) -> Result<u64, LedgerError>;

    /// Whether a purge may run beside a batch. Where it may not, it waits for its turn.
    fn purges_apart(&self) -> bool {
        false
    }

    /// Notes what became of an upload of a job. Something begun is noted only while the job is held with that
    /// fence: `false` when it no longer is. The other notes are for anybody.
    async fn note_upload(
        &self,
        id: &JobId,
        fence: Fence,
        note: &UploadNote,
    ) -> Result<bool, LedgerError>;

    /// The upload that the job began last, unless it is doomed.
    async fn recall_upload(&self, id: &JobId) -> Result<Option<BegunUpload>, LedgerError>;

    /// At most `limit` uploads that nobody will go on with, to be aborted: doomed ones, and those of jobs that
    /// have ended or are forgotten. They are the caller's for `lease`, and doomed from here on. Forgets, by the
    /// way, what was completed by jobs that have ended.
    async fn sweep_uploads(
        &self,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<SweptUpload>, LedgerError>;

    /// A committed write of what a batch writes, to learn whether the ledger is well.
    async fn probe(&self) -> Result<(), LedgerError>;

    /// Finds out whether the database still answers, after a while without work. Writes nothing.
    async fn keep_alive(&self) -> Result<(), LedgerError> {
        Ok(())
    }
}

/// Grows with every claim of a row; a commit with an older one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub i64);

/// What a delivery says of its job when it asks for the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The job.
    pub id: JobId,
    /// The lane it came by.
    pub lane: Lane,
    /// What it is to do.
    pub operation: OperationName,
    /// Where.
    pub bucket: String,
    /// The object, for operations on exactly one.
    pub key: Option<String>,
    /// Of all that it asks for. The first one of an id is kept, and decides what runs under it.
    pub digest: RequestDigest,
    /// Fields of the message that were ignored.
    pub ignored: Vec<String>,
    /// Publish time, or else the first time a worker saw it. Kept from the first claim on, whose time it never
    /// exceeds.
    pub enqueued_at: Timestamp,
    /// Header `brigade-replay`: higher than the row's, it resets the row's counts.
    pub replay: u32,
    /// When that replay was; age counts from it.
    pub replayed_at: Option<Timestamp>,
    /// Headers' counts, for a job whose row is gone; the row's win.
    pub attempts: u32,
    /// As above.
    pub parks: u32,
}

/// The ledger's answer to a claim.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// The row is ours; run the job.
    Taken(Taken),
    /// It completed or was abandoned: final.
    Finished(Box<JobRecord>),
    /// It is dead-lettered and not replayed. `buried`: its letter is known to be in the dead queue.
    Dead {
        /// The row.
        record: Box<JobRecord>,
        /// Whether the letter is known to be in the dead queue.
        buried: bool,
        /// To note a burial with.
        fence: Fence,
    },
    /// Another worker runs it.
    LeasedElsewhere,
    /// The id belongs to another request, which has not ended.
    OtherRequest,
}

/// A row that is ours for one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// For the commit.
    pub fence: Fence,
    /// S3 calls made before this run.
    pub attempts: u32,
    /// Steps taken on the parking ladder.
    pub parks: u32,
    /// Panics counted.
    pub panics: u32,
    /// Earlier claims that their worker never finished.
    pub unfinished: u32,
    /// As in the row.
    pub enqueued_at: Timestamp,
    /// When the first claim was.
    pub started_at: Timestamp,
    /// Age counts from here: `enqueued_at`, or the last replay.
    pub age_from: Timestamp,
    /// The row was noted for another request, and is this one's from now on: an operator replays another letter, or
    /// this version knows fields that an older one ignored.
    pub replaces: bool,
}

/// How a run ended, for the row. Gives up the lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// The job.
    pub id: JobId,
    /// From the claim.
    pub fence: Fence,
    /// The new state; never `Running`.
    pub state: State,
    /// S3 calls made so far, over all runs.
    pub attempts: u32,
    /// Steps taken on the parking ladder, this one included.
    pub parks: u32,
    /// Panics counted, this one included.
    pub panics: u32,
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
    /// The result as the ledger keeps it, if it completed.
    pub result: Option<serde_json::Value>,
    /// The attempts of this run that failed.
    pub failed: AttemptLog,
}

impl Ending {
    /// Whether the row goes on to name the error that the job met before: it was given back, and nothing
    /// new is known.
    fn keeps_error(&self) -> bool {
        self.failure.is_none() && !self.state.is_final()
    }
}

/// The ledger's answer to an ending.
#[derive(Debug, Clone, PartialEq)]
pub enum Committed {
    /// It is in the row; here is the row, for the reply.
    Recorded(Box<JobRecord>),
    /// The row has been claimed anew since: this run is void, look at the row again.
    Superseded,
}

/// What went wrong with the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Connection, disk, read-only, time-out: wait for it.
    #[error("the ledger is down: {0}")]
    Down(String),
    /// The database refuses what was to be written: waiting helps nothing.
    #[error("the ledger refused it: {0}")]
    Refused(String),
    /// The task that writes has ended unasked: nothing will be written by this process any more.
    #[error("the ledger's writer ended: {0}")]
    Ended(String),
}

/// One row as people see it; the columns are the contract's, section 4.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the columns are the contract's")]
pub struct JobRecord {
    pub id: JobId,
    pub lane: Lane,
    pub operation: String,
    pub bucket: String,
    pub key: Option<String>,
    pub state: State,
    pub attempts: u32,
    /// Steps taken on the parking ladder.
    pub parks: u32,
    /// Times replayed.
    pub replay: u32,
    pub error: Option<ReportedError>,
    pub result: Option<serde_json::Value>,
    pub enqueued_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Until when its worker holds it, or when it was given back unfinished; `None` once it is final.
    pub leased_until: Option<Timestamp>,
    pub worker: Option<String>,
    /// The newest of the attempts that failed, the newest first; over all runs.
    pub failed: Vec<FailedAttempt>,
    /// Of the request that the row is for; rows of versions before it have none.
    pub digest: Option<RequestDigest>,
    /// Fields of its message that were ignored.
    pub ignored: Vec<String>,
}

impl JobRecord {
    /// Whether it is known to be for another request than this one.
    pub fn is_for_another(&self, digest: &RequestDigest) -> bool {
        self.digest.is_some_and(|own| own != *digest)
    }

    /// The contract's JSON; `outcome` is the state.
    pub fn report(&self) -> Report {
        Report {
            id: Some(self.id.to_string()),
            lane: self.lane.to_string(),
            operation: Some(self.operation.clone()),
            bucket: Some(self.bucket.clone()),
            key: self.key.clone(),
            outcome: self.state.as_str().to_owned(),
            attempts: self.attempts,
            result: self.result.clone(),
            error: self.error.clone(),
            enqueued_at: Some(self.enqueued_at),
            started_at: self.started_at,
            finished_at: self.finished_at,
            worker: self.worker.clone(),
            repeated: false,
            differs: false,
            ignored: self.ignored.clone(),
        }
    }
}

/// An upload that is to be aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns say it")]
pub struct SweptUpload {
    pub job: JobId,
    pub bucket: String,
    pub key: String,
    pub upload_id: String,
    /// What all requests of its job say.
    pub headers: Headers,
}

/// Which jobs to list. Absent fields match all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    missing_docs,
    reason = "the fields are the filters of `jobs list`, contract section 7"
)]
pub struct JobFilter {
    pub state: Option<State>,
    pub lane: Option<Lane>,
    pub operation: Option<OperationName>,
    pub bucket: Option<String>,
    pub key_prefix: Option<String>,
    pub code: Option<String>,
    /// `enqueued_at` at or after.
    pub since: Option<Timestamp>,
    /// `enqueued_at` before.
    pub until: Option<Timestamp>,
    /// At most this many; at least 1.
    pub limit: u32,
    /// Continue after this one.
    pub after: Option<Cursor>,
}

/// A place in the list: the last job that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns that order the list")]
pub struct Cursor {
    pub enqueued_at: Timestamp,
    pub id: JobId,
}

/// Some jobs, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// At most as many as asked for.
    pub jobs: Vec<JobRecord>,
    /// Where the next page begins, if there is one.
    pub next: Option<Cursor>,
}

/// How many jobs of a lane are in a state with an error code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatRow {
    /// Their lane.
    pub lane: Lane,
    /// Their state.
    pub state: State,
    /// The last error they met, if any.
    pub code: Option<String>,
    /// How many; at least 1.
    pub count: u64,
}

/// The databases there are, by the scheme of their URL.
enum Database {
    Sqlite,
    Postgres,
}

impl Database {
    fn of(url: &str) -> Result<Self, LedgerError> {
        // The URL may hold a password, so no message shows more of it than its scheme.
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "sqlite" => Ok(Self::Sqlite),
            "postgres" | "postgresql" => Ok(Self::Postgres),
            "" => Err(LedgerError::Refused(
                "ledger.url names no database: sqlite://… and postgres://… do".to_owned(),
            )),
            other => Err(LedgerError::Refused(format!(
                "ledger.url: {other}: is no ledger that this version has; sqlite: and postgres: are"
            ))),
        }
    }
}

/// Opens a migrated ledger to claim jobs for `owner`, `lease` at a time. Changes nothing of its schema.
pub async fn open(
    url: &str,
    owner: Owner,
    lease: Duration,
) -> Result<Arc<dyn Ledger>, LedgerError> {
    match Database::of(url)? {
        Database::Sqlite => Ok(Arc::new(SqliteLedger::open(url, owner, lease).await?)),
        Database::Postgres => Ok(Arc::new(PostgresLedger::open(url, owner, lease).await?)),
    }
}

/// Opens a migrated ledger for a look. Makes no file and writes nothing.
pub async fn open_existing(
    url: &str,
    owner: Owner,
    lease: Duration,
) -> Result<Arc<dyn Ledger>, LedgerError> {
    match Database::of(url)? {
        Database::Sqlite => Ok(Arc::new(
            SqliteLedger::open_existing(url, owner, lease).await?,
        )),
        Database::Postgres => Ok(Arc::new(
            PostgresLedger::open_existing(url, owner, lease).await?,
        )),
    }
}

/// Applies the migrations that are pending, one process at a time.
pub async fn migrate(url: &str) -> Result<(), LedgerError> {
    match Database::of(url)? {
        Database::Sqlite => sqlite::migrate(url).await,
        Database::Postgres => postgres::migrate(url).await,
    }
}

/// The names of the migrations that are pending, in order. Changes nothing.
pub async fn pending(url: &str) -> Result<Vec<String>, LedgerError> {
    match Database::of(url)? {
        Database::Sqlite => sqlite::pending(url).await,
        Database::Postgres => postgres::pending(url).await,
    }
}

/// The database's time, to hold this machine's against; `None` for one without a clock of its own.
pub async fn clock(url: &str) -> Result<Option<Timestamp>, LedgerError> {
    match Database::of(url)? {
        Database::Sqlite => Ok(None),
        Database::Postgres => postgres::clock(url).await.map(Some),
    }
}

/// Whether the URL names a ledger that could be: one of a kind that is known, in a folder that is there and may be
/// written to. Connects to nothing and makes nothing.
pub fn check_place(url: &str) -> Result<(), LedgerError> {
    match Database::of(url)? {
        Database::Sqlite => sqlite::check_place(url),
        Database::Postgres => postgres::check_place(url),
    }
}

/// Whether workers on several machines can share it.
pub fn is_for_a_fleet(url: &str) -> Result<bool, LedgerError> {
    match Database::of(url)? {
        Database::Sqlite => Ok(false),
        Database::Postgres => Ok(true),
    }
}

/// Who claims: every claim of this process carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `host-pid`, as people see it.
    pub worker: Arc<str>,
    /// `host-pid` plus a random start id: a restarted container is another owner.
    pub unique: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_of_no_known_database_is_refused_and_not_shown() {
        for url in ["", "ledger.db", "mysql://me:secret@host/db", "secret"] {
            let error = pending(url).await.unwrap_err();
            assert!(matches!(error, LedgerError::Refused(_)), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
