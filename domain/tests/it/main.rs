//! What `domain` promises, on a real database where there is SQL in it.

mod directory;
mod doors;
mod events;
mod orders;
mod routes;
mod stock;
