//! Which dead letters an operator means: ids, lane, conditions.

use clap::Args;

use crate::{
    broker::rabbitmq::DeadLetter,
    cli::CommandError,
    job::{Lane, wire},
};

/// The arguments that choose letters. All of them hold at once.
#[derive(Debug, Args)]
pub(super) struct Selection {
    /// Ids of jobs; without any, all
    #[arg(value_name = "ID")]
    pub(super) ids: Vec<String>,
    /// upload, read or cleanup: letters in that dead queue
    #[arg(long, value_parser = parse_lane)]
    pub(super) lane: Option<Lane>,
    /// reason=R, code=C or bucket=B; may be repeated, for one name any of its values will do
    #[arg(long = "where", value_name = "NAME=VALUE", value_parser = Condition::parse)]
    pub(super) conditions: Vec<Condition>,
    /// At most this many letters
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<u64>,
}

fn parse_lane(name: &str) -> Result<Lane, String> {
    Lane::parse(name).ok_or_else(|| "lanes are upload, read and cleanup".to_owned())
}

/// One `--where`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    field: Field,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Reason,
    Code,
    Bucket,
}

impl Condition {
    fn parse(text: &str) -> Result<Self, String> {
        let rule = "must be reason=R, code=C or bucket=B";
        let (name, value) = text.split_once('=').ok_or(rule)?;
        let field = match name {
            "reason" => Field::Reason,
            "code" => Field::Code,
            "bucket" => Field::Bucket,
            _ => return Err(rule.to_owned()),
        };
        Ok(Self {
            field,
            value: value.to_owned(),
        })
    }
}

impl Selection {
    /// The lanes to walk.
    pub(super) fn lanes(&self) -> impl Iterator<Item = Lane> {
        let only = self.lane;
        Lane::ALL
            .into_iter()
            .filter(move |lane| only.is_none_or(|only| only == *lane))
    }

    /// Whether the letter is meant.
    pub(super) fn takes(&self, letter: &DeadLetter) -> bool {
        let id = letter.message.message_id.as_deref();
        if !self.ids.is_empty() && !self.ids.iter().any(|wanted| Some(wanted.as_str()) == id) {
            return false;
        }
        // The body is read only for those who ask for its bucket.
        [Field::Reason, Field::Code, Field::Bucket]
            .into_iter()
            .all(|field| {
                let of_field = || self.conditions.iter().filter(|it| it.field == field);
                if of_field().next().is_none() {
                    return true;
                }
                let actual = match field {
                    Field::Reason => Some(letter.reason().to_owned()),
                    Field::Code => letter.code().map(str::to_owned),
                    Field::Bucket => wire::glance(&letter.message).bucket,
                };
                of_field().any(|it| Some(&it.value) == actual.as_ref())
            })
    }

    /// Refuses to mean everything by leaving everything out.
    pub(super) fn demand_all(&self, all: bool, verb: &str) -> Result<(), CommandError> {
        if all || !self.ids.is_empty() || !self.conditions.is_empty() {
            return Ok(());
        }
        Err(CommandError::usage(format!(
            "dead {verb} wants ids, --where, or --all for every dead letter"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_reason_code_or_bucket() {
        for good in ["reason=permanent", "code=AccessDenied", "bucket=b", "code="] {
            assert!(Condition::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "reason", "key=k", "=x"] {
            assert!(Condition::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_said_does_not_mean_everything() {
        let selection = |ids: &[&str]| Selection {
            ids: ids.iter().map(|&id| id.to_owned()).collect(),
            lane: Some(Lane::Read),
            conditions: Vec::new(),
            limit: Some(1),
        };
        assert!(selection(&[]).demand_all(false, "replay").is_err());
        assert!(selection(&[]).demand_all(true, "replay").is_ok());
        assert!(selection(&["j"]).demand_all(false, "replay").is_ok());
    }
}
