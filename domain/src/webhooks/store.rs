//! The SQL of webhook endpoints, deliveries and attempts.
