//! Brings the schema up to date. sqlx takes an advisory lock, so any number of these may run at once.

use anyhow::{Context, bail};
use domain::schema::MIGRATOR;
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::migrate::Migrate;

use crate::cli::{self, MigrateAction};
use crate::database;
use crate::table::{self, Table};

/// `orderfleet migrate [status]`.
pub async fn run(args: cli::Migrate) -> anyhow::Result<()> {
    let mut conn = database::connect("orderfleet migrate").await?;
    match args.action {
        None => {
            let before = pending(&mut conn).await?.len();
            apply(&mut conn).await?;
            table::say(&format!("{before} migrations applied; the schema is current\n"))
        }
        Some(MigrateAction::Status { output }) => {
            let steps = status(&mut conn).await?;
            table::print(output.json, &steps, |steps| {
                let mut table = Table::new(&["VERSION", "STATE", "DESCRIPTION"]);
                for step in steps {
                    table.row([
                        step.version.to_string(),
                        step.state.to_owned(),
                        step.description.clone(),
                    ]);
                }
                table
            })?;
            match steps.iter().any(|step| step.state == "pending") {
                true => bail!("migrations are pending: run `orderfleet migrate`"),
                false => Ok(()),
            }
        }
    }
}

/// Applies what is pending.
pub async fn apply(conn: &mut PgConnection) -> anyhow::Result<()> {
    MIGRATOR.run(conn).await.context(
        "migrating: if it says that a migration was modified or is missing, the database belongs to another version of Orderfleet",
    )
}

/// Refuses to go on with a schema that is behind.
pub async fn refuse_pending(conn: &mut PgConnection) -> anyhow::Result<()> {
    match pending(conn).await?.as_slice() {
        [] => Ok(()),
        some => bail!("{} migrations are pending: run `orderfleet migrate` first", some.len()),
    }
}

/// The versions that are not applied.
pub async fn pending(conn: &mut PgConnection) -> anyhow::Result<Vec<i64>> {
    let steps = status(conn).await?;
    Ok(steps
        .iter()
        .filter(|step| step.state == "pending")
        .map(|step| step.version)
        .collect())
}

/// One migration and whether it is applied.
#[derive(Debug, Serialize)]
pub struct Step {
    /// Its number.
    pub version: i64,
    /// applied, pending, or changed since it was applied.
    pub state: &'static str,
    /// Its name.
    pub description: String,
}

/// All migrations of this build.
pub async fn status(conn: &mut PgConnection) -> anyhow::Result<Vec<Step>> {
    let is_new = sqlx::query_scalar!(r#"select to_regclass('_sqlx_migrations') is null as "is_new!""#)
        .fetch_one(&mut *conn)
        .await
        .context("looking for the table of migrations")?;
    let applied = match is_new {
        true => Vec::new(),
        false => conn
            .list_applied_migrations("_sqlx_migrations")
            .await
            .context("listing the applied migrations")?,
    };
    Ok(MIGRATOR
        .iter()
        .map(|migration| {
            let state = match applied.iter().find(|applied| applied.version == migration.version) {
                None => "pending",
                Some(applied) if applied.checksum != migration.checksum => "changed",
                Some(_) => "applied",
            };
            Step {
                version: migration.version,
                state,
                description: migration.description.to_string(),
            }
        })
        .collect())
}
