//! Routes: the solver against the checker, against published instances, and the store on a real database.

mod by_road;
mod drawing;
mod instances;
mod solving;
mod storing;
