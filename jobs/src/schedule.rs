//! The timetable: what the clock starts.

use queue::schedule::Entry;

/// All that the clock starts.
pub fn timetable() -> Vec<Entry> {
    vec![Entry::new("plan_due_routes", "* * * * *", &crate::PlanDueRoutes {})]
}
