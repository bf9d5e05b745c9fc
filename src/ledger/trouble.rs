//! What a database's error means: try again at once, wait for the ledger, or give up on the row
//! (RESILIENCE.md, events 4 and 17). Which code means what is each adapter's own knowledge.

use sqlx::error::DatabaseError;

use super::LedgerError;

/// The three things that an error of a database can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Others were in the way: the same again, at once.
    Again,
    /// The database as a whole: wait for it.
    Down,
    /// The row that was to be written: waiting helps nothing.
    Refused,
}

/// How often work is begun in all while others are in its way.
const TRIES: u32 = 5;

/// Does the work, again and at once while others are in its way. `read` says what a database's error means.
pub(super) async fn retrying<T, F>(
    read: fn(&dyn DatabaseError) -> Trouble,
    mut work: impl FnMut() -> F,
) -> Result<T, LedgerError>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    let mut tries = 1;
    loop {
        match work().await {
            Ok(done) => return Ok(done),
            Err(error) => match trouble(&error, read) {
                Trouble::Again if tries < TRIES => tries += 1,
                Trouble::Again | Trouble::Down => return Err(LedgerError::Down(sentence(&error))),
                Trouble::Refused => return Err(LedgerError::Refused(sentence(&error))),
            },
        }
    }
}

fn trouble(error: &sqlx::Error, read: fn(&dyn DatabaseError) -> Trouble) -> Trouble {
    match error {
        sqlx::Error::Database(error) => read(&**error),
        sqlx::Error::Encode(_)
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::TypeNotFound { .. } => Trouble::Refused,
        // Connection, TLS, pool, protocol, a worker thread that is gone: nothing about the row.
        _ => Trouble::Down,
    }
}

/// The error with its causes. Errors of sqlx name no URL, so no password either.
pub(super) fn sentence(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.to_string(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Decode(error) => format!("a row can't be read: {error}"),
        sqlx::Error::PoolTimedOut => "no connection in time".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never(_: &dyn DatabaseError) -> Trouble {
        Trouble::Refused
    }

    #[test]
    fn what_is_not_about_the_row_is_waited_for() {
        let refused = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        for error in [
            refused,
            sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed,
            sqlx::Error::WorkerCrashed,
            sqlx::Error::Protocol("odd".to_owned()),
        ] {
            assert_eq!(trouble(&error, never), Trouble::Down, "{error}");
        }
        let unreadable = sqlx::Error::Decode("odd".into());
        assert_eq!(trouble(&unreadable, never), Trouble::Refused);
    }
}
