//! The timetable: what the clock starts, in alphabetical order. Times are UTC; ticks that nobody was there for collapse to
//! one, since each of these jobs takes whatever is due when it runs.

use queue::schedule::Entry;

use crate::{
    ExpireReservations, PaySellers, PlanDueRoutes, PruneFinishedJobs, PruneIdempotencyKeys, PruneRoadMatrices,
    PruneUniqueKeys, PurgeWebhooks, ReconcilePayments, SweepLedger,
};

/// All that the clock starts.
pub fn timetable() -> Vec<Entry> {
    vec![
        Entry::new("expire_reservations", "* * * * *", &ExpireReservations {}),
        Entry::new("pay_sellers", "0 5 * * *", &PaySellers::default()),
        Entry::new("plan_due_routes", "* * * * *", &PlanDueRoutes::default()),
        Entry::new(
            "plan_due_routes_evening",
            "0 20 * * *",
            &PlanDueRoutes { evening: true },
        ),
        Entry::new("prune_finished_jobs", "10 3 * * *", &PruneFinishedJobs {}),
        Entry::new("prune_idempotency_keys", "20 * * * *", &PruneIdempotencyKeys {}),
        Entry::new("prune_road_matrices", "45 3 * * *", &PruneRoadMatrices {}),
        Entry::new("prune_unique_keys", "40 3 * * *", &PruneUniqueKeys {}),
        Entry::new("purge_webhooks", "50 * * * *", &PurgeWebhooks {}),
        Entry::new("reconcile_payments", "* * * * *", &ReconcilePayments {}),
        Entry::new("sweep_ledger", "30 4 * * *", &SweepLedger::default()),
    ]
}
