//! Whose address it is: an endpoint that a partner's own key registered proves that its owner wants it.
//!
//! A code goes to the address, and comes back over the API. That the receiver repeats it in its answer would prove less:
//! there are servers that repeat whatever they are sent.

use rand::distr::{Alphanumeric, SampleString};
use serde_json::json;
use sqlx::PgConnection;
use subtle::ConstantTimeEq;

use super::super::Endpoint;
use super::Error;
use super::endpoints::lock;
use crate::{
    events::{self, Announced, Audience, NewEvent},
    ids::EndpointId,
};

/// What the event is called that carries the code.
pub const CHALLENGE: &str = "endpoint.challenge";
/// 190 bits: nobody guesses it.
const CODE_LENGTH: usize = 32;

/// Sends nothing more to an endpoint until [`confirm`] is given the code that goes to its address now. Until then it collects
/// as a disabled one does.
pub async fn challenge(conn: &mut PgConnection, id: EndpointId) -> Result<(Endpoint, Announced), Error> {
    let code = Alphanumeric.sample_string(&mut rand::rng(), CODE_LENGTH);
    sqlx::query!(
        "update webhook_endpoints
         set state = case state when 'disabled' then state else 'unconfirmed' end, challenge = $2,
             version = version + 1, updated_at = clock_timestamp()
         where id = $1 and deleted_at is null",
        id.0,
        code,
    )
    .execute(&mut *conn)
    .await?;
    let endpoint = lock(&mut *conn, id).await?;
    let event = NewEvent {
        kind: CHALLENGE,
        order_id: None,
        data: json!({ "endpoint_id": id, "code": code }),
    };
    let announced = events::record_for(conn, event, Audience::endpoint(id)).await?;
    Ok((endpoint, announced))
}

/// Sends to an endpoint from now on, if that is the code its address was sent last; one that needs no code stays as it is.
pub async fn confirm(conn: &mut PgConnection, id: EndpointId, code: &str) -> Result<Endpoint, Error> {
    let endpoint = lock(&mut *conn, id).await?;
    let wanted = sqlx::query_scalar!("select challenge from webhook_endpoints where id = $1", id.0)
        .fetch_one(&mut *conn)
        .await?;
    let Some(wanted) = wanted else {
        return Ok(endpoint);
    };
    if !bool::from(wanted.as_bytes().ct_eq(code.as_bytes())) {
        return Err(Error::WrongCode);
    }
    vouch(conn, id).await
}

/// Asks for no code any more: somebody of ours knows whose the address is.
pub async fn vouch(conn: &mut PgConnection, id: EndpointId) -> Result<Endpoint, Error> {
    sqlx::query!(
        "update webhook_endpoints
         set state = case state when 'unconfirmed' then 'active' else state end, challenge = null,
             version = version + 1, updated_at = clock_timestamp()
         where id = $1 and deleted_at is null and challenge is not null",
        id.0,
    )
    .execute(&mut *conn)
    .await?;
    lock(conn, id).await
}
