//! Lines of points as short text: Google's encoded polylines. Whoever reads one has to know its precision, the decimals
//! that count: five for Google, OSRM and most others, six for OSRM's `polyline6` and Valhalla.

use serde_json::{Value, json};

use super::{distance::Point, sheet::Sheet};

/// What most read.
pub const PRECISION: u32 = 5;
/// What Valhalla reads.
pub const PRECISION_6: u32 = 6;

/// Encodes a line.
pub fn encode(points: &[Point], precision: u32) -> String {
    let factor = 10_f64.powi(precision as i32);
    let whole = |degrees: f64| (degrees * factor).round() as i64;
    let mut text = String::new();
    let (mut lat, mut lon) = (0, 0);
    for point in points {
        let next = (whole(point.lat), whole(point.lon));
        push(&mut text, next.0 - lat);
        push(&mut text, next.1 - lon);
        (lat, lon) = next;
    }
    text
}

/// A signed number in groups of five bits, the lowest first.
fn push(text: &mut String, number: i64) {
    let mut bits = (number << 1) ^ (number >> 63);
    while bits >= 0x20 {
        text.push(char::from((0x20 | (bits & 0x1f)) as u8 + 63));
        bits >>= 5;
    }
    text.push(char::from(bits as u8 + 63));
}

/// Decodes a line; none where the text is no polyline.
pub fn decode(text: &str, precision: u32) -> Option<Vec<Point>> {
    let factor = 10_f64.powi(precision as i32);
    let (mut numbers, mut bits, mut shift) = (Vec::new(), 0_i64, 0);
    for byte in text.bytes() {
        let group = i64::from(byte.checked_sub(63).filter(|group| *group < 64)?);
        if shift > 55 {
            return None;
        }
        bits |= (group & 0x1f) << shift;
        shift += 5;
        if group & 0x20 == 0 {
            numbers.push((bits >> 1) ^ -(bits & 1));
            (bits, shift) = (0, 0);
        }
    }
    let (pairs, rest) = numbers.as_chunks::<2>();
    if shift != 0 || !rest.is_empty() {
        return None;
    }
    let mut at = (0_i64, 0_i64);
    let points = pairs.iter().map(|[lat, lon]| {
        at = (at.0.checked_add(*lat)?, at.1.checked_add(*lon)?);
        Some(Point {
            lat: at.0 as f64 / factor,
            lon: at.1 as f64 / factor,
        })
    });
    points.collect()
}

/// Every route of a plan as a line from the depot to the depot, in both precisions.
pub fn polylines(sheet: &Sheet) -> Value {
    let depot = Point {
        lat: sheet.depot.lat,
        lon: sheet.depot.lon,
    };
    let routes = sheet.routes.iter().map(|tour| {
        let stops = tour.stops.iter().map(|stop| Point {
            lat: stop.lat,
            lon: stop.lon,
        });
        let line: Vec<Point> = std::iter::once(depot).chain(stops).chain([depot]).collect();
        json!({
            "route_id": tour.route_id,
            "vehicle": tour.vehicle,
            "polyline": encode(&line, PRECISION),
            "polyline6": encode(&line, PRECISION_6),
        })
    });
    json!({"plan_id": sheet.plan.id, "routes": routes.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: [Point; 3] = [
        Point { lat: 38.5, lon: -120.2 },
        Point {
            lat: 40.7,
            lon: -120.95,
        },
        Point {
            lat: 43.252,
            lon: -126.453,
        },
    ];

    #[test]
    fn the_published_example_comes_out() {
        assert_eq!(encode(&LINE, PRECISION), "_p~iF~ps|U_ulLnnqC_mqNvxq`@");
        assert_eq!(encode(&LINE, PRECISION_6), "_izlhA~rlgdF_{geC~ywl@_kwzCn`{nI");
        assert_eq!(encode(&[], PRECISION), "");
    }

    #[test]
    fn what_is_encoded_reads_back_and_the_wrong_precision_shifts_by_ten() {
        for precision in [PRECISION, PRECISION_6] {
            assert_eq!(decode(&encode(&LINE, precision), precision).as_deref(), Some(&LINE[..]));
        }
        let shifted = decode(&encode(&LINE, PRECISION_6), PRECISION).expect("points all the same");
        assert!((shifted[0].lat - 385.0).abs() < 1e-9);
        for nonsense in ["_p~iF", "_p~iF~ps|", "é", "\n", &"~".repeat(20)] {
            assert_eq!(decode(nonsense, PRECISION), None, "{nonsense:?}");
        }
    }
}
