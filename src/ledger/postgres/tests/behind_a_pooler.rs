//! PgBouncer in transaction mode, named by `BRIGADE_TEST_PGBOUNCER_URL`: it gives each transaction whatever session of
//! the server is free. It takes no options, and so no schema: every test has a database of its own.

use super::*;

struct Pooled {
    server: String,
    name: String,
    direct: String,
    url: String,
}

impl Pooled {
    #[expect(
        clippy::disallowed_methods,
        reason = "the servers of these tests are no setting"
    )]
    async fn new() -> Option<Self> {
        static DATABASES: AtomicU32 = AtomicU32::new(0);
        let server = std::env::var("BRIGADE_TEST_POSTGRES_URL").ok()?;
        let pooler = std::env::var("BRIGADE_TEST_PGBOUNCER_URL").ok()?;
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let name = format!("brigade_pooled_{}_{number}", std::process::id());
        let to = |url: &str| {
            let (server, _) = url.rsplit_once('/').unwrap();
            format!("{server}/{name}")
        };
        let (direct, url) = (to(&server), to(&pooler));
        let pooled = Self {
            server,
            name,
            direct,
            url,
        };
        run(&pooled.server, &format!("create database {}", pooled.name)).await;
        Some(pooled)
    }

    async fn open(&self, worker: &str) -> PostgresLedger {
        PostgresLedger::open(&self.url, owner(worker), LEASE)
            .await
            .unwrap()
    }
}

async fn run(url: &str, sql: &str) {
    let mut connection = options(url).unwrap().connect().await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}

#[async_trait]
impl TestDatabase for Pooled {
    async fn ledger(&self, worker: &str) -> Arc<dyn Ledger> {
        Arc::new(self.open(worker).await)
    }

    async fn pass(&self, time: Duration) {
        let micros = time.as_micros();
        let jobs = format!(
            "update jobs set leased_until = leased_until - {micros}, \
            finished_at = finished_at - {micros}"
        );
        run(&self.direct, &jobs).await;
        let uploads = format!("update uploads set swept_until = swept_until - {micros}");
        run(&self.direct, &uploads).await;
    }

    async fn forget_requests(&self) {
        let forget = "update jobs set request_digest = null, ignored = null";
        run(&self.direct, forget).await;
    }

    async fn end(self) {
        let drop = format!("drop database {} with (force)", self.name);
        run(&self.server, &drop).await;
    }
}

async fn migrated() -> Option<Pooled> {
    let database = Pooled::new().await?;
    migrate(&database.url).await.unwrap();
    Some(database)
}

ledger_contract!(migrated);

#[tokio::test]
async fn a_fleet_may_migrate_at_once() {
    let Some(database) = Pooled::new().await else {
        return;
    };
    for migrated in join_all((0..8).map(|_| migrate(&database.url))).await {
        migrated.unwrap();
    }
    assert!(pending(&database.url).await.unwrap().is_empty());
    database.end().await;
}

#[tokio::test]
async fn the_session_is_known_to_be_shared_and_left_as_it_was() {
    let Some(database) = migrated().await else {
        return;
    };
    let ledger = database.open("a").await;
    let mut session = ledger.writer.session().await.unwrap();
    assert!(!session.is_owned());
    let show = "select current_setting('enable_seqscan')";
    let here: String = sqlx::query_scalar(show)
        .persistent(false)
        .fetch_one(session.on())
        .await
        .unwrap();
    session.finish().await.unwrap();
    let mut next = options(&database.url).unwrap().connect().await.unwrap();
    let there = sqlx::raw_sql(show).fetch_one(&mut next).await.unwrap();
    assert_eq!((here.as_str(), there.get::<&str, _>(0)), ("off", "on"));
    let left = "select count(*)::text from pg_prepared_statements";
    let left = sqlx::raw_sql(left).fetch_one(&mut next).await.unwrap();
    assert_eq!(left.get::<&str, _>(0), "0");
    next.close().await.unwrap();
    database.end().await;
}

#[tokio::test]
async fn a_fleet_of_writers_finishes_every_job_once() {
    if let Some(database) = migrated().await {
        super::finish_every_job_once(&database).await;
        database.end().await;
    }
}
