//! `brigade dev`: embedded S3, SQLite, a worker and its status page in one process, for trying it out.
//!
//! Objects and ledger live in a temporary folder and go away with the process; the broker is the
//! settings'.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};

use super::s3_server::S3Server;
use crate::{
    config::Settings,
    http::HttpServer,
    job::Lane,
    worker::{Worker, storage_settings},
};

const BUCKET: &str = "demo";

/// Everything that `brigade dev` runs.
#[derive(Debug)]
pub struct Playground {
    s3: S3Server,
    worker: Worker,
    http: HttpServer,
    settings: Settings,
    _directory: tempfile::TempDir,
}

impl Playground {
    /// Starts it all. A status page whose address is taken gets another port.
    pub async fn start(mut settings: Settings) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("no temporary folder")?;
        let s3 = S3Server::start_in(&directory.path().join("s3"), None).await;
        let s3 = s3.context("the embedded S3 server can't start")?;
        s3.create_bucket(BUCKET);
        let ledger = format!("sqlite://{}", directory.path().join("ledger.db").display());
        settings.ledger.url = SecretString::from(ledger);
        settings.s3.endpoint = Some(s3.endpoint());
        settings.s3.region = Some("us-east-1".to_owned());
        let mut storage = storage_settings(&settings);
        storage.credentials = Some(s3.credentials());
        let worker = Worker::start_with_storage(&settings, &Lane::ALL, storage).await?;
        let view = worker.view();
        let http = match HttpServer::start(settings.http.listen, Arc::clone(view)).await {
            Ok(http) => http,
            Err(_taken) => {
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                HttpServer::start(any, Arc::clone(view))
                    .await
                    .context("no port for the status page")?
            }
        };
        Ok(Self {
            s3,
            worker,
            http,
            settings,
            _directory: directory,
        })
    }

    /// What is where, and what to paste into another terminal.
    pub fn describe(&self) -> String {
        let (access_key, secret_key) = self.s3.keys();
        let (amqp, ledger) = (&self.settings.amqp.url, &self.settings.ledger.url);
        format!(
            "Bucket Brigade is running. Ctrl-C stops it, and what it stored goes with it.\n\n\
             \x20 status page  http://{http}/\n\
             \x20 metrics      http://{http}/metrics\n\
             \x20 S3           {s3}, bucket {BUCKET}\n\n\
             In another terminal:\n\n\
             \x20 export AMQP_URL={amqp}\n\
             \x20 export DATABASE_URL={ledger}\n\
             \x20 export AWS_ENDPOINT_URL_S3={s3} AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret_key}\n\
             \x20 brigade enqueue put s3://{BUCKET}/hello.md --text '# hello' --wait\n\
             \x20 brigade enqueue get s3://{BUCKET}/hello.md --wait\n\
             \x20 brigade jobs list\n",
            http = self.http.address(),
            s3 = self.s3.endpoint(),
            amqp = joined(amqp),
            ledger = ledger.expose_secret(),
        )
    }

    /// Drains the worker and stops the servers.
    pub async fn stop(mut self) {
        self.worker.drain(self.settings.drain.timeout).await;
        self.http.stop().await;
        self.s3.stop().await;
    }
}

/// As `AMQP_URL` takes several.
pub(super) fn joined(urls: &[SecretString]) -> String {
    let urls: Vec<&str> = urls.iter().map(ExposeSecret::expose_secret).collect();
    urls.join(",")
}
