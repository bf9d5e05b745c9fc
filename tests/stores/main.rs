//! `make stores`: what each S3 store does with every operation and every option, tried with the worker's own storage
//! code, and written into `docs/reference/s3-stores.md`.
//!
//! The stores are started by `scripts/s3-stores`, but for the embedded one. What an object was given is looked at with a plain
//! client of the SDK. No test: a store that lacks something is no fault here.

#![allow(
    clippy::unwrap_used,
    reason = "a program for developers: what it does not expect ends it"
)]

mod cases;
mod look;
mod operations;
mod options;
mod store;

use std::{fmt::Write as _, fs, path::PathBuf};

use bucket_brigade::dev::s3_server::S3Server;
use clap::Parser;

use self::{
    cases::Case,
    operations::operations,
    options::options,
    store::{End, Store},
};

/// Tries stores and writes the table.
#[derive(Debug, Parser)]
#[command(name = "stores")]
struct Args {
    /// NAME=ENDPOINT, with the keys of `AWS_*`
    stores: Vec<String>,
    /// The page with the markers
    #[arg(long, default_value = "docs/reference/s3-stores.md")]
    page: PathBuf,
    /// Print the table only
    #[arg(long)]
    dry_run: bool,
}

const BEGIN: &str = "<!-- stores: made by `make stores` -->\n";
const END: &str = "<!-- end of stores -->";

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let embedded = S3Server::start().await.unwrap();
    let key = |name: &str| {
        let found = std::env::vars().find(|(variable, _)| variable == name);
        found.map_or_else(|| "any".to_owned(), |(_, key)| key)
    };
    let (id, secret) = (key("AWS_ACCESS_KEY_ID"), key("AWS_SECRET_ACCESS_KEY"));
    let mut stores = Vec::new();
    for text in &args.stores {
        let (name, endpoint) = text.split_once('=').expect("NAME=ENDPOINT");
        stores.push(Store::open(name, endpoint, (&id, &secret)).await);
    }
    let (id, secret) = embedded.keys();
    stores.push(Store::open("embedded server", &embedded.endpoint(), (id, secret)).await);

    let mut table = String::new();
    for (title, cases) in [("operation", operations()), ("option", options())] {
        let names: Vec<&str> = stores.iter().map(|store| store.name.as_str()).collect();
        writeln!(table, "| {title} | {} |", names.join(" | ")).unwrap();
        writeln!(table, "|---|{}", "---|".repeat(stores.len())).unwrap();
        for case in &cases {
            let mut cells = Vec::new();
            for store in &stores {
                cells.push(cell(case, store).await);
            }
            eprintln!("{}: {}", case.name, cells.join(" | "));
            writeln!(table, "| {} | {} |", case.name, cells.join(" | ")).unwrap();
        }
        table.push('\n');
    }
    if args.dry_run {
        print!("{table}");
        return;
    }
    let page = fs::read_to_string(&args.page).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the first marker");
    let (_, after) = rest.split_once(END).expect("the second marker");
    let page = format!("{before}{BEGIN}\n{table}{END}{after}");
    fs::write(&args.page, page).unwrap();
}

/// One word if all ways of the case end alike, else each way with its own.
async fn cell(case: &Case, store: &Store) -> String {
    let mut ends = Vec::new();
    for (way, attempt) in &case.ways {
        ends.push((*way, store.end(attempt).await));
    }
    let (_, first) = &ends[0];
    if ends.iter().all(|(_, end)| end == first) {
        return first.to_string();
    }
    let mut alike: Vec<(&End, Vec<&str>)> = Vec::new();
    for (way, end) in &ends {
        match alike.iter_mut().find(|(other, _)| *other == end) {
            Some((_, ways)) => ways.push(way),
            None => alike.push((end, vec![way])),
        }
    }
    let each = alike
        .iter()
        .map(|(end, ways)| format!("{}: {end}", ways.join(", ")));
    each.collect::<Vec<_>>().join("; ")
}
