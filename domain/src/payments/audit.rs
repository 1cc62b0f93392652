//! The gateway's books against ours: which payments differ, and what is on theirs alone.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use super::Movement;
use crate::{
    ids::{PaymentId, PayoutId},
    money::Cents,
};

/// What a look at some movements found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Payments whose amounts are not the gateway's, or that do not know their intent yet.
    pub doubtful: Vec<PaymentId>,
    /// Movements that belong to no payment of ours and were not known before.
    pub orphans: Vec<Movement>,
}

/// Compares movements with our payments, and writes down those that are nobody's.
///
/// A payment is doubtful when it has moved less than the gateway says of it, so that one which is just being recorded
/// may be among them: to ask once more does no harm.
pub async fn compare(conn: &mut PgConnection, movements: &[Movement]) -> Result<Findings, sqlx::Error> {
    let marks: Vec<uuid::Uuid> = movements
        .iter()
        .filter_map(|movement| movement.mark)
        .map(|id| id.0)
        .collect();
    let intents: Vec<String> = movements
        .iter()
        .filter_map(|movement| movement.intent.clone())
        .collect();
    let ours = sqlx::query!(
        r#"select gateway_ref as intent, id as "id: PaymentId", captured_minor, refunded_minor
           from payments
           where gateway_ref = any($1) or (gateway_ref is null and id = any($2))"#,
        &intents,
        &marks,
    )
    .fetch_all(&mut *conn)
    .await?;
    let payouts: Vec<uuid::Uuid> = movements
        .iter()
        .filter_map(|movement| movement.payout)
        .map(|id| id.0)
        .collect();
    let paid_out = sqlx::query!(
        r#"select id as "id: PayoutId", amount_minor from payouts where id = any($1) and state <> 'failed'"#,
        &payouts
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut findings = Findings::default();
    for movement in movements {
        let payment = ours.iter().find(|ours| match &ours.intent {
            Some(intent) => Some(intent) == movement.intent.as_ref(),
            None => Some(ours.id) == movement.mark,
        });
        // One that is under way finds out by itself.
        let is_payout = paid_out
            .iter()
            .any(|payout| Some(payout.id) == movement.payout && payout.amount_minor == -movement.amount.0);
        if is_payout {
            continue;
        }
        let Some(payment) = payment else {
            if is_new_orphan(conn, movement).await? {
                findings.orphans.push(movement.clone());
            }
            continue;
        };
        let is_known = match movement.amount.0 {
            taken if taken > 0 => payment.captured_minor >= taken,
            given => payment.refunded_minor >= -given,
        };
        if !is_known && !findings.doubtful.contains(&payment.id) {
            findings.doubtful.push(payment.id);
        }
    }
    Ok(findings)
}

async fn is_new_orphan(conn: &mut PgConnection, movement: &Movement) -> Result<bool, sqlx::Error> {
    let written = sqlx::query!(
        "insert into orphan_charges (movement, intent, amount_minor, currency, moved_at)
         values ($1, $2, $3, $4, $5)
         on conflict (movement) do nothing",
        movement.id,
        movement.intent,
        movement.amount.0,
        movement.currency,
        movement.at,
    )
    .execute(conn)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// The payment that an intent of the gateway belongs to: the one that knows it, or the one that its mark names.
pub async fn payment_of(
    conn: &mut PgConnection,
    intent: &str,
    mark: Option<PaymentId>,
) -> Result<Option<PaymentId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select id as "id: PaymentId"
           from payments
           where gateway_ref = $1 or (gateway_ref is null and id = $2)
           limit 1"#,
        intent,
        mark.map(|id| id.0),
    )
    .fetch_optional(conn)
    .await
}

/// Money that moved at the gateway for nothing of ours, as stored.
#[derive(Debug, Clone, Serialize)]
pub struct OrphanCharge {
    /// The gateway's id of the movement.
    pub movement: String,
    /// The intent it belongs to, if it belongs to one.
    pub intent: Option<String>,
    /// What came in; negative when it went out.
    pub amount: Cents,
    /// Lower-case letters.
    pub currency: String,
    /// When it moved, by the gateway's clock.
    pub moved_at: DateTime<Utc>,
    /// When the sweep found it.
    pub seen_at: DateTime<Utc>,
    /// When somebody said what became of it; it is open until then.
    pub resolved_at: Option<DateTime<Utc>>,
    /// Who.
    pub resolved_by: Option<String>,
    /// What.
    pub resolution: Option<String>,
}

impl OrphanCharge {
    /// Why it is an orphan, for a person.
    pub fn why(&self) -> String {
        match (&self.intent, self.amount) {
            (Some(intent), Cents(taken)) if taken > 0 => {
                format!("{intent} took money, and no payment of ours has that intent or is named in its metadata")
            }
            (Some(intent), _) => format!("money of {intent} went back, and no payment of ours has that intent"),
            (None, Cents(taken)) if taken > 0 => "money came in without a payment intent".to_owned(),
            (None, _) => "money went out, neither as a refund of a payment of ours nor as a payout of ours".to_owned(),
        }
    }

    /// What a person can do about it.
    pub fn remedy(&self) -> String {
        let look = format!("look {} up at the gateway to learn who made it", self.movement);
        let act = match self.amount {
            Cents(taken) if taken > 0 => {
                "refund it there if nobody was promised anything; change the key if nobody knows of it"
            }
            _ => "ask whoever made it; change the key if nobody knows of it",
        };
        format!(
            "{look}: another installation or a person with the same key? {act}; then resolve it here and say what became of it"
        )
    }
}

/// A page of orphan charges, newest first, before the position given; of the open ones only, or all.
pub async fn orphans(
    conn: &mut PgConnection,
    is_open: bool,
    before: Option<(DateTime<Utc>, String)>,
    limit: i64,
) -> Result<Vec<OrphanCharge>, sqlx::Error> {
    let (before_at, before_movement) = before.unzip();
    sqlx::query_as!(
        OrphanCharge,
        r#"select movement, intent, amount_minor as "amount: Cents", currency, moved_at, seen_at, resolved_at, resolved_by,
                  resolution
           from orphan_charges
           where (not $1 or resolved_at is null)
             and ($2::timestamptz is null or (seen_at, movement) < ($2, $3))
           order by seen_at desc, movement desc
           limit $4"#,
        is_open,
        before_at,
        before_movement,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// How many are open; at most `most` are counted.
pub async fn open_orphans(conn: &mut PgConnection, most: i64) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from (select from orphan_charges where resolved_at is null limit $1) o"#,
        most
    )
    .fetch_one(conn)
    .await
}

/// Says what became of an open orphan charge. None when there is no such movement; one that is resolved stays as it is.
pub async fn resolve_orphan(
    conn: &mut PgConnection,
    movement: &str,
    resolution: &str,
    actor: &str,
) -> Result<Option<OrphanCharge>, sqlx::Error> {
    sqlx::query!(
        "update orphan_charges set resolved_at = clock_timestamp(), resolved_by = $2, resolution = $3
         where movement = $1 and resolved_at is null",
        movement,
        actor,
        resolution,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query_as!(
        OrphanCharge,
        r#"select movement, intent, amount_minor as "amount: Cents", currency, moved_at, seen_at, resolved_at, resolved_by,
                  resolution
           from orphan_charges
           where movement = $1"#,
        movement,
    )
    .fetch_optional(conn)
    .await
}
