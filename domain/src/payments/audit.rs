//! The gateway's books against ours: which payments differ, and what is on theirs alone.

use sqlx::PgConnection;

use super::Movement;
use crate::ids::PaymentId;

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
    let mut findings = Findings::default();
    for movement in movements {
        let payment = ours.iter().find(|ours| match &ours.intent {
            Some(intent) => Some(intent) == movement.intent.as_ref(),
            None => Some(ours.id) == movement.mark,
        });
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
