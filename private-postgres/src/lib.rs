//! A PostgreSQL of one's own: found, started, kept honest and ended.
//!
//! 1. [`Cluster`] is the whole of it: [`Cluster::start`] makes the data directory if need be and returns when the
//!    server answers `select 1`; the server ends with the value, and with the process, however that one ends.
//! 2. [`Binaries`] finds PostgreSQL: a setting, the system, the cache, and at last a download pinned by hash.
//! 3. `account` decides who it runs as, since PostgreSQL refuses to be root.
//! 4. `pid_file` tells a server that runs from a file that a dead one left.
//! 5. `keeper.sh` is the small parent of the server that outlives us long enough to end it.
//! 6. [`Error`] says what is wrong and what to do.
//!
//! No runtime and no client library: whoever uses this has their own, or wants none.

mod account;
mod binaries;
mod cluster;
mod error;
mod pid_file;

pub use binaries::{BIN_DIR_SETTING, Binaries};
pub use cluster::{Cluster, Lifetime, Options, Shutdown};
pub use error::Error;
