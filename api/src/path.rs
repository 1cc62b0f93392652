//! The id in a path. What has not the form of one names nothing.

use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use crate::State;
use crate::problem::Problem;

/// The part of the path called `id` (or the only one).
pub(crate) struct Id<T>(pub(crate) T);

impl<T: FromStr + Send> FromRequestParts<State> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Id<T>, Problem> {
        let nothing = || Problem::not_found("resource");
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| nothing())?;
        let (_, value) = params.iter().last().ok_or_else(nothing)?;
        value.parse().map(Id).map_err(|_| nothing())
    }
}
