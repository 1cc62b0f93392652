//! What is stored and promised of each kind of job: its name, version, queue, retries, and what its payload looks like.
//! Rows of earlier builds are in the tables of every installation, so none of it may change by accident.

use std::{collections::BTreeSet, fs, path::Path};

use domain::ids::{DeliveryId, EndpointId, OrderId, PartnerId, PaymentId, SellerId, ShipmentId, WarehouseId};
use jobs::{
    AuthorizePayment, CapturePayment, DeliverWebhook, ExpireOrder, ExpireReservations, PaySeller, PaySellers,
    PlanDueRoutes, PlanRoutes, ProcessGatewayEvent, ProcessInbound, PruneFinishedJobs, PruneIdempotencyKeys,
    PruneRoadMatrices, PruneUniqueKeys, PurgeWebhooks, ReconcilePayment, ReconcilePayments, RefundPayment,
    ReleaseStock, ReserveStock, ShipShipment, SweepLedger, VoidPayment, catalogue,
};
use queue::Job;
use serde_json::{Value, json};
use uuid::Uuid;

/// An example of each kind's payload.
fn samples() -> Vec<(&'static str, Value)> {
    let order_id = OrderId(some_id());
    let payment_id = PaymentId(some_id());
    vec![
        sample(&AuthorizePayment { payment_id }),
        sample(&CapturePayment { payment_id }),
        sample(&DeliverWebhook {
            delivery_id: DeliveryId(some_id()),
            endpoint_id: Some(EndpointId(some_id())),
            group: Some("hook:endpoint:order".to_owned()),
        }),
        sample(&ExpireOrder { order_id }),
        sample(&ExpireReservations {}),
        sample(&PaySeller {
            seller_id: SellerId(some_id()),
        }),
        sample(&PaySellers {
            after: Some(SellerId(some_id())),
        }),
        sample(&PlanDueRoutes::default()),
        sample(&PlanRoutes {
            warehouse_id: WarehouseId(some_id()),
            date: "2026-11-22".parse().expect("it is a date"),
            bucket: 7,
            seconds: None,
        }),
        sample(&ProcessGatewayEvent {
            event_id: "evt_1".to_owned(),
        }),
        sample(&ProcessInbound {
            partner_id: PartnerId(some_id()),
            event_id: "evt_1".to_owned(),
        }),
        sample(&PruneFinishedJobs {}),
        sample(&PruneIdempotencyKeys {}),
        sample(&PruneRoadMatrices {}),
        sample(&PruneUniqueKeys {}),
        sample(&PurgeWebhooks {}),
        sample(&ReconcilePayment { payment_id }),
        sample(&ReconcilePayments {}),
        sample(&RefundPayment {
            payment_id,
            amount_minor: 250,
            seq: 1,
            reason: "broken".to_owned(),
        }),
        sample(&ReleaseStock {
            order_id,
            cause: "cancel".to_owned(),
        }),
        sample(&ReserveStock { order_id }),
        sample(&ShipShipment {
            shipment_id: ShipmentId(some_id()),
        }),
        sample(&SweepLedger {
            since: Some("2026-11-22T04:30:00Z".parse().expect("it is a time")),
            after: Some("txn_1".to_owned()),
        }),
        sample(&VoidPayment { payment_id }),
    ]
}

fn sample<J: Job>(job: &J) -> (&'static str, Value) {
    (J::KIND, serde_json::to_value(job).expect("a payload is plain data"))
}

fn some_id() -> Uuid {
    Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_0001)
}

const IF_IT_CHANGED: &str = "This is what is stored of the kind, and other builds read it. \
    If the kind is new, accept it: INSTA_UPDATE=always cargo test -p jobs catalogue. \
    If it was renamed or its payload changed, rows of the old form are still in the tables: \
    keep the old name, or raise VERSION and write `upcast`, and only then accept the change.";

#[test]
fn every_kind_is_stored_as_it_always_was() {
    let samples = samples();
    for kind in catalogue().kinds() {
        let Some((_, args)) = samples.iter().find(|(name, _)| *name == kind.kind) else {
            panic!(
                "{} has no sample payload: add one to samples() in jobs/tests/it/catalogue.rs",
                kind.kind
            );
        };
        let stored = json!({
            "kind": kind.kind,
            "version": kind.version,
            "queue": kind.queue,
            "priority": kind.priority,
            "timeout_seconds": kind.timeout.as_secs(),
            "retry": {
                "base_ms": kind.retry.base.as_millis(),
                "cap_ms": kind.retry.cap.as_millis(),
                "attempts_max": kind.retry.attempts_max,
            },
            "args": args,
        });
        insta::with_settings!({ description => IF_IT_CHANGED, prepend_module_to_snapshot => false, snapshot_path => "kinds" }, {
            insta::assert_json_snapshot!(kind.kind, stored);
        });
    }
}

#[test]
fn no_kind_disappears_while_its_rows_may_still_be_there() {
    let known: BTreeSet<String> = catalogue().kinds().iter().map(|kind| kind.kind.to_owned()).collect();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/kinds")).expect("the snapshots") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let Some(kind) = name.strip_suffix(".snap") else {
            continue;
        };
        assert!(
            known.contains(kind),
            "{kind} has a snapshot and is not in the catalogue: jobs of this kind would wait for ever. Put it back; or, once \
             no installation has one in queue.jobs or queue.dead_letters any more, delete tests/it/kinds/{name}"
        );
    }
}

#[test]
fn every_file_with_a_job_in_it_is_in_the_catalogue_under_its_own_name() {
    let known: BTreeSet<String> = catalogue().kinds().iter().map(|kind| kind.kind.to_owned()).collect();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("the sources") {
        let path = entry.expect("an entry").path();
        let source = fs::read_to_string(&path).expect("a source file");
        if !source.contains("impl Job for ") {
            continue;
        }
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(
            known.contains(&name),
            "jobs/src/{name}.rs has a job, and the catalogue in jobs/src/lib.rs has no {name}: add its line there, and let \
             KIND be the file's name"
        );
    }
}

#[test]
fn the_timetable_starts_kinds_that_exist_each_by_its_own_name() {
    let kinds = catalogue().kinds();
    for entry in jobs::timetable() {
        let kind = kinds
            .iter()
            .find(|kind| kind.kind == entry.kind)
            .expect("a kind of the catalogue");
        // Or the kind's name and what sets the entry apart.
        assert!(entry.name.starts_with(kind.kind), "{}", entry.name);
        assert_eq!(entry.queue, kind.queue);
    }
}
