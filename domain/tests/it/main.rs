//! What `domain` promises, on a real database where there is SQL in it.

mod routes;
