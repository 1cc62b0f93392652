//! A plan as GeoJSON (RFC 7946): a point for the depot, a line for each route, a point for each stop and for each shipment
//! that was left out. Longitude comes first.

use serde_json::{Value, json};

use super::{markup::clock, sheet::Sheet};

/// The feature collection of a sheet.
pub fn geojson(sheet: &Sheet) -> Value {
    let at = |lat: f64, lon: f64| json!([lon, lat]);
    let feature = |kind: &str, coordinates: Value, properties: Value| {
        let geometry = json!({"type": kind, "coordinates": coordinates});
        json!({"type": "Feature", "geometry": geometry, "properties": properties})
    };
    let depot = &sheet.depot;
    let named = json!({"kind": "depot", "code": depot.code, "name": depot.name});
    let mut features = vec![feature("Point", at(depot.lat, depot.lon), named)];
    for tour in &sheet.routes {
        let mut line = vec![at(depot.lat, depot.lon)];
        line.extend(tour.stops.iter().map(|stop| at(stop.lat, stop.lon)));
        line.push(at(depot.lat, depot.lon));
        let properties = json!({
            "kind": "route", "route_id": tour.route_id, "vehicle": tour.vehicle, "state": tour.state, "colour": tour.colour,
            "km": tour.metres as f64 / 1000.0, "minutes": (tour.returns_at - tour.departs_at) / 60,
            "stops": tour.stops.len(), "load_grams": tour.load.grams, "load_cm3": tour.load.cm3,
            "departs_at": clock(tour.departs_at), "returns_at": clock(tour.returns_at),
        });
        features.push(feature("LineString", Value::Array(line), properties));
        for stop in &tour.stops {
            let properties = json!({
                "kind": "stop", "route_id": tour.route_id, "vehicle": tour.vehicle, "colour": tour.colour, "seq": stop.seq,
                "shipment_id": stop.shipment_id, "order_id": stop.order_id, "state": stop.state,
                "eta": clock(stop.arrives_at), "starts_at": clock(stop.starts_at), "leaves_at": clock(stop.leaves_at),
                "window": [clock(stop.window.start), clock(stop.window.end)],
            });
            features.push(feature("Point", at(stop.lat, stop.lon), properties));
        }
    }
    for left in &sheet.left_out {
        let properties = json!({
            "kind": "left_out", "shipment_id": left.shipment_id, "order_id": left.order_id, "reason": left.reason,
            "why": left.why, "moved_to": left.moved_to,
        });
        features.push(feature("Point", at(left.lat, left.lon), properties));
    }
    let plan = &sheet.plan;
    json!({
        "type": "FeatureCollection",
        "features": features,
        "plan": {
            "id": plan.id, "warehouse": plan.warehouse_code, "date": plan.date, "version": plan.version,
            "distance_source": plan.distance_source, "approximate": plan.approximate, "truncated": plan.truncated,
        },
    })
}
