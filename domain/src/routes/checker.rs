//! Recomputes the routes.
