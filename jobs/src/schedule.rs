//! The timetable: what the clock starts.

use queue::schedule::Entry;

/// All that the clock starts.
pub fn timetable() -> Vec<Entry> {
    Vec::new()
}
