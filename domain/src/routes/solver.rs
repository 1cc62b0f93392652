//! Finds the routes.
