//! The schema, embedded: every binary and every test migrates with exactly these files.

/// The migrations of the whole installation, the queue's included.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");
