//! Asks the road server how far it is between the stops of a day, if one is set; `plan_routes` goes by its answer. No plan
//! fails for want of it: what was measured before is taken again, and where there is nothing, straight lines made longer
//! are, and the plan says that it is approximate.

use std::time::Duration;

use domain::routes::plan::Snapshot;
use domain::routes::road_matrix;
use domain::routes::roads::{self, Provider, Roads};
use domain::services::Settings;
use queue::Attempt;

/// The longest that a plan waits for ways, of the time it has.
const MEASURING_MAX: Duration = Duration::from_secs(20);
/// And no more than this part of what it has left.
const MEASURING_PART: u32 = 3;

/// The day with the ways it is planned by.
pub(crate) async fn measured(
    attempt: &Attempt,
    settings: &Settings,
    mut snapshot: Snapshot,
) -> anyhow::Result<Snapshot> {
    let Some(roads) = &settings.roads else {
        return Ok(snapshot);
    };
    if snapshot.stops() == 0 {
        return Ok(snapshot);
    }
    match ways(attempt, roads, &snapshot).await? {
        Ok((row, matrix)) => snapshot.drive_by(row, matrix),
        Err(error) => {
            tracing::warn!(
                warehouse.id = %snapshot.warehouse_id,
                date = %snapshot.date,
                %error,
                "no ways by road: the plan is made with straight lines"
            );
            snapshot.approximate();
        }
    }
    Ok(snapshot)
}

type Kept = (uuid::Uuid, road_matrix::RoadMatrix);

/// What is kept, or else what the road server says, which is kept from then on. The inner error is the server's.
async fn ways(attempt: &Attempt, roads: &Roads, snapshot: &Snapshot) -> anyhow::Result<Result<Kept, roads::Error>> {
    let provider = match roads.provider() {
        Ok(provider) => provider,
        Err(error) => return Ok(Err(error)),
    };
    let within = MEASURING_MAX.min(attempt.time_left() / MEASURING_PART);
    let version = data_version(&*provider, snapshot, within).await;
    let cells = snapshot.cells();
    let known = {
        let mut reads = attempt.read().await?;
        let of = (
            roads.kind.name(),
            roads.profile(),
            version.as_ref().ok().map(String::as_str),
        );
        if let Some(kept) = road_matrix::find(&mut reads, snapshot.warehouse_id, of, &cells).await? {
            return Ok(Ok(kept));
        }
        match &version {
            Err(_) => None,
            Ok(version) => {
                let origin = roads.origin(version.clone());
                road_matrix::latest(&mut reads, snapshot.warehouse_id, &origin).await?
            }
        }
    };
    let measured = match version {
        Ok(version) => roads::measure(roads, &*provider, version, cells, known.as_ref(), within).await,
        Err(error) => Err(error),
    };
    let matrix = match measured {
        Ok(matrix) => matrix,
        Err(error) => return Ok(Err(error)),
    };
    // Before the search, in a step of its own: whoever plans the day after a crash asks for nothing again.
    let mut effects = attempt.begin().await?;
    let row = road_matrix::keep(&mut effects, snapshot.warehouse_id, &matrix).await?;
    effects.commit().await?;
    Ok(Ok((row, matrix)))
}

async fn data_version(provider: &dyn Provider, snapshot: &Snapshot, within: Duration) -> Result<String, roads::Error> {
    let asking = provider.data_version(snapshot.depot());
    match tokio::time::timeout(within, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(roads::Error::Silent("no answer in time".to_owned())),
    }
}
