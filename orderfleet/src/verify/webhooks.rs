//! W1–W3: everyone who should be told was told, once accepted, in order.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use url::Url;

use super::journals::ReceiverLog;
use super::{Check, JUST_NOW};

const NO_LOG: &str = "no receiver's log given";
const W2: &str = "delivered means the receiver accepted it, and accepted means delivered";
const W3: &str = "ordered deliveries were first accepted in their order, with gaps only at dead or discarded ones";

pub(super) async fn check(conn: &mut PgConnection, log: Option<&ReceiverLog>) -> sqlx::Result<Vec<Check>> {
    let fan_out = fan_out(conn).await?;
    let overtaken = overtaken(conn).await?;
    let (w2, w3) = match log {
        Some(log) => {
            let deliveries = deliveries(conn).await?;
            let heard = Heard::new(log, &deliveries);
            let mut out_of_order = overtaken;
            out_of_order.extend(heard.out_of_order(&deliveries));
            (
                Check::new("W2", W2, heard.disagreements(&deliveries)),
                Check::new("W3", W3, out_of_order),
            )
        }
        // What our own tables say of the order needs no log.
        None if !overtaken.is_empty() => (Check::skipped("W2", W2, NO_LOG), Check::new("W3", W3, overtaken)),
        None => (Check::skipped("W2", W2, NO_LOG), Check::skipped("W3", W3, NO_LOG)),
    };
    Ok(vec![fan_out, w2, w3])
}

/// An endpoint is owed every matching event from its creation on; one that was edited, or disabled for more than the
/// seven days in which it still collects, only those since then. A second of leeway is for events and endpoints whose
/// transactions overlapped.
async fn fan_out(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let mut offenders = sqlx::query_scalar!(
        r#"
        select format('event %s (%s) has no delivery to endpoint %s', e.event_id, e.type, h.id) as "it!"
        from webhook_endpoints h
        join events e
          on h.event_types && array['*', split_part(e.type, '.', 1) || '.*', e.type]
         and e.at > (case when h.version = 1 then h.created_at else h.updated_at end) + interval '1 second'
         and (h.deleted_at is null or e.at < h.deleted_at - interval '1 second')
         -- What concerns one partner is owed to that partner and to us; a test to nobody.
         and (e.partner_id is null or h.partner_id is null or e.partner_id = h.partner_id)
         and e.endpoint_id is null
        where (h.state = 'active' or e.at < h.updated_at + interval '7 days' - interval '1 second')
          and not exists (
              select from webhook_deliveries d
              where d.endpoint_id = h.id and d.event_id = e.event_id
          )
        order by e.id
        "#
    )
    .fetch_all(&mut *conn)
    .await?;
    let unsettled = sqlx::query_scalar!(
        r#"
        select format('delivery %s of event %s is %s', d.id, d.event_id, d.state) as "it!"
        from webhook_deliveries d
        join webhook_endpoints h on h.id = d.endpoint_id
        where d.state in ('pending', 'in_flight')
          and d.updated_at < queue.clock() - make_interval(secs => $1)
          -- A disabled endpoint collects until it is enabled again.
          and not (h.state = 'disabled' and d.state = 'pending')
        order by d.seq
        "#,
        JUST_NOW
    )
    .fetch_all(conn)
    .await?;
    offenders.extend(unsettled);
    Ok(Check::new(
        "W1",
        "every event has one delivery to each endpoint that wants it, and each was settled",
        offenders,
    ))
}

/// W3 in our own tables: delivered while an earlier one of the same line still waited.
async fn overtaken(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        select format('delivery %s (seq %s) was delivered before %s (seq %s)', later.id, later.seq, earlier.id, earlier.seq) as "it!"
        from webhook_deliveries earlier
        join webhook_deliveries later
          on later.endpoint_id = earlier.endpoint_id
         and later.ordering_key = earlier.ordering_key
         and later.seq > earlier.seq
         and later.state = 'delivered'
        where earlier.state in ('pending', 'in_flight')
        "#
    )
    .fetch_all(conn)
    .await
}

struct Delivery {
    id: String,
    endpoint_id: String,
    event_id: String,
    url: String,
    ordering_key: Option<String>,
    seq: i64,
    state: String,
    is_young: bool,
    was_cut_off: bool,
}

async fn deliveries(conn: &mut PgConnection) -> sqlx::Result<Vec<Delivery>> {
    sqlx::query_as!(
        Delivery,
        r#"
        select d.id::text as "id!", d.endpoint_id::text as "endpoint_id!", d.event_id::text as "event_id!", h.url,
               d.ordering_key, d.seq, d.state,
               d.updated_at > queue.clock() - make_interval(secs => $1) as "is_young!",
               -- Sent, and the answer was never written down: the sender died in between.
               exists (
                   select from webhook_attempts a where a.delivery_id = d.id and (a.finished_at is null or a.http_status is null)
               ) as "was_cut_off!"
        from webhook_deliveries d
        join webhook_endpoints h on h.id = d.endpoint_id
        order by d.seq
        "#,
        JUST_NOW
    )
    .fetch_all(conn)
    .await
}

/// What one receiver heard, by path and event.
struct Heard<'a> {
    /// The number of the first accepted request.
    accepted: HashMap<(&'a str, &'a str), u64>,
    /// The paths of endpoints that are on this receiver.
    paths: HashSet<String>,
}

impl<'a> Heard<'a> {
    /// One log is one receiver's: an endpoint is on it when its path occurs in it. An empty log is of all endpoints.
    fn new(log: &'a ReceiverLog, deliveries: &[Delivery]) -> Heard<'a> {
        let mut accepted = HashMap::new();
        for request in log.requests.iter().filter(|request| request.is_accepted()) {
            if let Some(event) = request.webhook_id.as_deref() {
                accepted.entry((request.path.as_str(), event)).or_insert(request.n);
            }
        }
        let logged: HashSet<&str> = log.requests.iter().map(|request| request.path.as_str()).collect();
        let urls: HashSet<&str> = deliveries.iter().map(|delivery| delivery.url.as_str()).collect();
        let paths = urls
            .into_iter()
            .map(path)
            .filter(|path| logged.is_empty() || logged.contains(path.as_str()))
            .collect();
        Heard { accepted, paths }
    }

    fn first_accepted(&self, delivery: &Delivery) -> Option<u64> {
        self.accepted
            .get(&(path(&delivery.url).as_str(), delivery.event_id.as_str()))
            .copied()
    }

    fn is_here(&self, delivery: &Delivery) -> bool {
        self.paths.contains(&path(&delivery.url))
    }

    fn disagreements(&self, deliveries: &[Delivery]) -> Vec<String> {
        let mut offenders = Vec::new();
        for delivery in deliveries.iter().filter(|delivery| self.is_here(delivery)) {
            let is_delivered = delivery.state == "delivered";
            match self.first_accepted(delivery) {
                None if is_delivered && !delivery.is_young => offenders.push(format!(
                    "delivery {} of event {} is delivered, and the receiver never accepted it",
                    delivery.id, delivery.event_id
                )),
                Some(n) if !is_delivered && !delivery.is_young && !delivery.was_cut_off => offenders.push(format!(
                    "delivery {} of event {} is {}, and the receiver accepted it by request {n}",
                    delivery.id, delivery.event_id, delivery.state
                )),
                _ => {}
            }
        }
        offenders
    }

    fn out_of_order(&self, deliveries: &[Delivery]) -> Vec<String> {
        let mut last: HashMap<(&str, &str), (u64, i64)> = HashMap::new();
        let mut offenders = Vec::new();
        for delivery in deliveries {
            let (Some(key), Some(n)) = (delivery.ordering_key.as_deref(), self.first_accepted(delivery)) else {
                continue;
            };
            let line = (delivery.endpoint_id.as_str(), key);
            if let Some((earlier_n, earlier_seq)) = last.get(&line).filter(|(earlier_n, _)| *earlier_n > n) {
                offenders.push(format!(
                    "endpoint {} key {key}: seq {} came first at request {n}, seq {earlier_seq} only at {earlier_n}",
                    delivery.endpoint_id, delivery.seq
                ));
            }
            last.insert(line, (n, delivery.seq));
        }
        offenders
    }
}

fn path(url: &str) -> String {
    Url::parse(url).map_or_else(|_| url.to_owned(), |url| url.path().to_owned())
}
