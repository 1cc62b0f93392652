//! API keys: made, seen (never their secret) and revoked, by those with the scope `admin`.

use axum::extract;
use chrono::{DateTime, Utc};
use domain::access::{self, ApiKey, Scope};
use domain::ids::ApiKeyId;
use secrecy::ExposeSecret;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, instant, text, texts};
use crate::paging::{Page, Params};
use crate::problem::Problem;
use crate::view::view;

view! {
    /// A key to the API; the secret is not in it.
    ApiKeyView of ApiKey {
        /// Its id.
        id: ApiKeyId as Uuid,
        /// Whom it stands for.
        name: String as String,
        /// Its public part.
        key_id: String as String,
        /// What it may do.
        scopes: Vec<String> as Vec<String>,
        /// When it was made.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When it ends by itself.
        expires_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// When it was revoked.
        revoked_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// When it was last used, to the minute.
        last_used_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
    }
}

/// A key to make.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `create` reads it")]
pub(crate) struct NewApiKey {
    /// Whom it stands for. Keys of one name share their idempotency keys and order references.
    name: String,
    /// What it may do.
    scopes: Vec<String>,
    /// When it ends by itself; never, without.
    expires_at: Option<DateTime<Utc>>,
}

/// A key just made.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeApiKey {
    /// Its id.
    id: Uuid,
    /// Whom it stands for.
    name: String,
    /// Its public part.
    key_id: String,
    /// What it may do.
    scopes: Vec<String>,
    /// When it ends by itself.
    expires_at: Option<DateTime<Utc>>,
    /// The whole key, shown this once.
    key: String,
}

/// Makes a key. Its text is in this answer and nowhere else; an `Idempotency-Key` is refused here, since answers under
/// one are kept.
#[utoipa::path(
    post, path = "/api-keys", tag = "access",
    request_body = NewApiKey,
    responses((status = 201, description = "Made", body = MadeApiKey)),
    security(("api_key" = ["admin"])),
)]
pub(crate) async fn create(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::REFUSED, async |conn| {
        let (name, scopes, expires_at) = fields::read(&call.body, |f| {
            let name = f.required("name", text(1..=100));
            let words = f.required("scopes", texts(1..=Scope::ALL.len(), 1..=50));
            let mut scopes: Vec<Scope> = Vec::new();
            for (i, word) in words.iter().enumerate() {
                match word.parse() {
                    Ok(scope) if scopes.contains(&scope) => {
                        f.complain(&format!("scopes/{i}"), "duplicate", "is in the list already".to_owned());
                    }
                    Ok(scope) => scopes.push(scope),
                    Err(_) => f.complain(
                        &format!("scopes/{i}"),
                        "unknown_scope",
                        "there is no such scope".to_owned(),
                    ),
                }
            }
            (name, scopes, f.optional("expires_at", instant))
        })?;
        let (id, key) = access::store::create(conn, &name, &scopes, expires_at).await?;
        let scopes = scopes.iter().map(|scope| scope.to_string()).collect();
        let made = MadeApiKey {
            id: id.0,
            name,
            key_id: key.key_id,
            scopes,
            expires_at,
            key: key.token.expose_secret().to_owned(),
        };
        Ok(Answer::created(&format!("/api/v1/api-keys/{id}"), &made))
    })
    .await
}

/// Lists all keys, without their secrets.
#[utoipa::path(
    get, path = "/api-keys", tag = "access",
    responses((status = 200, description = "The keys", body = Page<ApiKeyView>)),
    security(("api_key" = ["admin"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, params: Params) -> Result<Answer, Problem> {
    params.end()?;
    let keys = access::store::list(&mut *state.pool.acquire().await?).await?;
    Ok(Answer::ok(&Page {
        items: keys.into_iter().map(ApiKeyView::from).collect(),
        next_cursor: None,
    }))
}

/// Ends a key at once; a no-op when it ended before.
#[utoipa::path(
    delete, path = "/api-keys/{id}", tag = "access",
    params(("id" = Uuid, Path, description = "The key")),
    responses((status = 204, description = "Revoked")),
    security(("api_key" = ["admin"])),
)]
pub(crate) async fn revoke(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: ApiKeyId = call.path("id", "key")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        access::store::revoke(conn, id).await?;
        Ok(Answer::nothing())
    })
    .await
}
