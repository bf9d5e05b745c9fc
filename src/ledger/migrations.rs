//! The schema's versions, the same for every database, and which of them a database still lacks.

use sqlx::{
    SqlStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// One step of the schema.
struct Step {
    version: i64,
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

/// A macro, because the name of the included file must be a literal.
macro_rules! step {
    ($version:literal, $name:literal) => {
        Step {
            version: $version,
            name: $name,
            sqlite: include_str!(concat!("../../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../../migrations/postgres/", $name, ".sql")),
        }
    };
}

const STEPS: [Step; 4] = [
    step!(1, "0001_jobs"),
    step!(2, "0002_uploads"),
    step!(3, "0003_requests"),
    step!(4, "0004_said"),
];

/// The steps for SQLite.
pub(super) fn sqlite() -> Migrator {
    migrator(|step| step.sqlite)
}

/// The steps for PostgreSQL.
pub(super) fn postgres() -> Migrator {
    migrator(|step| step.postgres)
}

fn migrator(sql: impl Fn(&Step) -> &'static str) -> Migrator {
    let migration = |step: &Step| {
        let sql = SqlStr::from_static(sql(step));
        Migration::new(
            step.version,
            step.name.into(),
            MigrationType::Simple,
            sql,
            false,
        )
    };
    let mut migrator = Migrator::with_migrations(STEPS.iter().map(migration).collect());
    // While a fleet is updated, a worker of the older version may start on the newer schema: steps only add.
    migrator.set_ignore_missing(true);
    migrator
}

/// The names of the steps whose version is not among those applied, in order.
pub(super) fn missing(applied: &[i64]) -> Vec<String> {
    STEPS
        .iter()
        .filter(|step| !applied.contains(&step.version))
        .map(|step| step.name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_step_in_order() {
        let steps: Vec<String> = STEPS
            .iter()
            .map(|step| format!("{}.sql", step.name))
            .collect();
        assert_eq!(files_in("sqlite"), steps);
        assert_eq!(files_in("postgres"), steps);
        for (position, step) in (1..).zip(&STEPS) {
            assert_eq!(step.version, position);
            assert!(
                step.name.starts_with(&format!("{position:04}_")),
                "{}",
                step.name
            );
        }
    }
    fn files_in(folder: &str) -> Vec<String> {
        let path = format!("{}/migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
        let entries = std::fs::read_dir(path).unwrap();
        let mut files: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        files
    }
}
