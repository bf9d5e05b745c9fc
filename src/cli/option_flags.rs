//! A flag for each row of the options that a message may hold (`job/options.rs`): the table says name, rule and help.

use std::sync::LazyLock;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use serde_json::Value;

use crate::job::{
    Headers,
    options::{HeaderOption, Kind, OPTIONS, Scope},
};

/// What an object is given: for what creates one.
#[derive(Debug, Clone, Default)]
pub(super) struct ObjectFlags(pub(super) Headers);

/// What all requests of a job say: for every job.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestFlags(pub(super) Headers);

const OBJECT: &[Scope] = &[Scope::Content, Scope::Object];
const REQUEST: &[Scope] = &[Scope::Request];

/// The flags' names, in the order of the rows.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let name = |row: &HeaderOption| {
        let path = row.path();
        let path = path.strip_suffix(".type").unwrap_or(&path);
        path.replace(['.', '_'], "-")
    };
    OPTIONS.iter().map(name).collect()
});

fn rows(scopes: &'static [Scope]) -> impl Iterator<Item = (&'static str, &'static HeaderOption)> {
    let names = NAMES.iter().map(String::as_str);
    names
        .zip(&OPTIONS)
        .filter(|(_, row)| scopes.contains(&row.scope))
}

fn augmented(command: Command, scopes: &'static [Scope]) -> Command {
    rows(scopes).fold(command, |command, (name, row)| {
        command.arg(arg(name, row).global(row.scope == Scope::Request))
    })
}

fn arg(name: &'static str, row: &'static HeaderOption) -> Arg {
    let help = match row.kind {
        Kind::OneOf(_) | Kind::Location => format!("{}: {}", row.about, row.rule()),
        _ => row.about.to_owned(),
    };
    let value_name = match row.kind {
        Kind::Text | Kind::Word => "TEXT",
        Kind::OneOf(_) => "NAME",
        Kind::Switch(..) => "true|false",
        Kind::HttpDate | Kind::Date => "TIME",
        Kind::Location => "PATH-OR-URL",
        Kind::Account => "ACCOUNT",
    };
    let arg = Arg::new(name).long(name).value_name(value_name).help(help);
    let arg = arg.value_parser(move |text: &str| {
        let value = row.value_of(text);
        match row.read(&value) {
            Ok(_) => Ok(value),
            Err(rule) => Err(format!("must be {rule}")),
        }
    });
    match row.kind {
        // A bare flag means true, and takes no argument away that follows it.
        Kind::Switch(..) => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        _ => arg,
    }
}

fn given(matches: &ArgMatches, scopes: &'static [Scope]) -> Headers {
    let mut headers = Headers::default();
    for (name, row) in rows(scopes) {
        if let Some(value) = matches.get_one::<Value>(name) {
            headers = headers.with(row.header, value.clone());
        }
    }
    headers
}

macro_rules! flags {
    ($name:ident, $scopes:expr) => {
        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(given(matches, $scopes)))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }

        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                augmented(command, $scopes)
            }

            fn augment_args_for_update(command: Command) -> Command {
                augmented(command, $scopes)
            }
        }
    };
}

flags!(ObjectFlags, OBJECT);
flags!(RequestFlags, REQUEST);

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(arguments: &[&str]) -> Result<Headers, String> {
        let command = ObjectFlags::augment_args(Command::new("put"));
        let command = command.arg(Arg::new("object"));
        let matches = command.try_get_matches_from([&["put"], arguments].concat());
        let matches = matches.map_err(|error| error.to_string())?;
        Ok(ObjectFlags::from_arg_matches(&matches).unwrap().0)
    }

    #[test]
    fn each_option_of_an_object_has_a_flag() {
        let given = headers(&[
            "--content-encoding",
            "gzip",
            "--server-side-encryption",
            "aws:kms",
            "--server-side-encryption-key-id=k",
            "--object-lock-legal-hold",
            "s3://b/k",
            "--server-side-encryption-bucket-key=false",
        ]);
        let expected = Headers::default()
            .with("content-encoding", "gzip")
            .with("x-amz-server-side-encryption", "aws:kms")
            .with("x-amz-server-side-encryption-aws-kms-key-id", "k")
            .with("x-amz-object-lock-legal-hold", true)
            .with("x-amz-server-side-encryption-bucket-key-enabled", false);
        assert_eq!(given, Ok(expected));
        assert_eq!(rows(OBJECT).count() + rows(REQUEST).count(), OPTIONS.len());
    }

    #[test]
    fn a_wrong_value_is_refused_before_anything_is_sent() {
        let why = headers(&["--acl", "public"]).unwrap_err();
        assert!(why.contains("must be private, public-read,"), "{why}");
    }
}
