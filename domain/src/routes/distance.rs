//! How far it is and how long it takes, when no road distances are known: the great circle, times a factor, at one
//! speed. Rounded up to whole metres and seconds, so that leaving a stop out never makes a way longer. And whether a
//! point can be right at all.

use std::{fmt, str::FromStr};

use super::problem::Matrix;

/// A point on the earth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Degrees north.
    pub lat: f64,
    /// Degrees east.
    pub lon: f64,
}

/// Straight lines made longer. Its text (`haversine 130% 40.0km/h`) is stored with every plan, so that whoever
/// recomputes one uses the same numbers whatever the settings say by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Haversine {
    /// How long a road is, in percent of the straight line.
    pub road_percent: u32,
    /// How far a van comes in an hour.
    pub metres_per_hour: u32,
}

const EARTH_RADIUS_METRES: f64 = 6_371_008.8;

/// The great circle between two points.
pub fn straight_metres(from: Point, to: Point) -> f64 {
    let (lat_a, lat_b) = (from.lat.to_radians(), to.lat.to_radians());
    let (dlat, dlon) = (lat_b - lat_a, (to.lon - from.lon).to_radians());
    let h = (dlat / 2.0).sin().powi(2) + lat_a.cos() * lat_b.cos() * (dlon / 2.0).sin().powi(2);
    2.0 * EARTH_RADIUS_METRES * h.sqrt().min(1.0).asin()
}

/// What is wrong with where something is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// Not a number from -90 to 90.
    #[error("the latitude is not from -90 to 90")]
    Latitude,
    /// Not a number from -180 to 180.
    #[error("the longitude is not from -180 to 180")]
    Longitude,
    /// Too far away, but not with latitude and longitude the other way round.
    #[error("it is {km} km from the depot; with latitude and longitude swapped it would be {swapped_km} km")]
    Swapped {
        /// As it stands.
        km: u32,
        /// The other way round.
        swapped_km: u32,
    },
    /// Too far away.
    #[error("it is {km} km from the depot, as the crow flies")]
    TooFar {
        /// How far.
        km: u32,
    },
}

impl Misplaced {
    /// The field that is wrong, where it is one.
    pub fn field(self) -> &'static str {
        match self {
            Misplaced::Latitude => "lat",
            Misplaced::Longitude => "lon",
            Misplaced::Swapped { .. } | Misplaced::TooFar { .. } => "lat,lon",
        }
    }
}

/// Looks whether a point can be right, for a depot there and vans that go so far.
pub fn misplaced(depot: Point, point: Point, metres_max: u32) -> Option<Misplaced> {
    // Not a number is in no range.
    let swapped = Point {
        lat: point.lon,
        lon: point.lat,
    };
    let is_on_earth = |point: Point| (-90.0..=90.0).contains(&point.lat) && (-180.0..=180.0).contains(&point.lon);
    let km = |point: Point| (straight_metres(depot, point) / 1000.0).round() as u32;
    let is_near = |point: Point| is_on_earth(point) && straight_metres(depot, point) <= f64::from(metres_max);
    if !(-90.0..=90.0).contains(&point.lat) {
        return Some(Misplaced::Latitude);
    }
    if !(-180.0..=180.0).contains(&point.lon) {
        return Some(Misplaced::Longitude);
    }
    if is_near(point) {
        return None;
    }
    Some(match is_near(swapped) {
        true => Misplaced::Swapped {
            km: km(point),
            swapped_km: km(swapped),
        },
        false => Misplaced::TooFar { km: km(point) },
    })
}

impl Haversine {
    /// From the settings' factor and speed, which were checked when they were read.
    pub fn new(road_factor: f64, speed_kmh: f64) -> Haversine {
        Haversine {
            road_percent: (road_factor.clamp(1.0, 3.0) * 100.0).round() as u32,
            metres_per_hour: (speed_kmh.clamp(1.0, 200.0) * 10.0).round() as u32 * 100,
        }
    }

    /// The same, with what a depot says of its own roads.
    pub fn at_depot(self, road_factor: Option<f64>, speed_kmh: Option<f64>) -> Haversine {
        let own = Haversine::new(road_factor.unwrap_or(1.0), speed_kmh.unwrap_or(1.0));
        Haversine {
            road_percent: road_factor.map_or(self.road_percent, |_| own.road_percent),
            metres_per_hour: speed_kmh.map_or(self.metres_per_hour, |_| own.metres_per_hour),
        }
    }

    /// The way from one point to another, in metres.
    pub fn metres(&self, from: Point, to: Point) -> u32 {
        (straight_metres(from, to) * f64::from(self.road_percent) / 100.0).ceil() as u32
    }

    /// How long that way takes, in seconds.
    pub fn seconds(&self, metres: u32) -> u32 {
        (u64::from(metres) * 3600).div_ceil(u64::from(self.metres_per_hour)) as u32
    }

    /// Every way between the points.
    pub fn matrix(&self, points: &[Point]) -> Matrix {
        Matrix::from_fn(points.len(), |from, to| {
            if from == to || points[from] == points[to] {
                return (0, 0);
            }
            // The same number both ways, whatever the floating point does.
            let metres = self.metres(points[from.min(to)], points[from.max(to)]);
            (metres, self.seconds(metres))
        })
    }
}

impl fmt::Display for Haversine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (km, rest) = (self.metres_per_hour / 1000, self.metres_per_hour % 1000 / 100);
        write!(f, "haversine {}% {km}.{rest}km/h", self.road_percent)
    }
}

/// The text names no distances that are known here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown source of distances {0:?}")]
pub struct UnknownSource(pub String);

impl FromStr for Haversine {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Haversine, UnknownSource> {
        let parse = || {
            let (percent, speed) = text
                .strip_prefix("haversine ")?
                .strip_suffix("km/h")?
                .split_once("% ")?;
            let (km, rest) = speed.split_once('.')?;
            let metres_per_hour = km.parse::<u32>().ok()?.checked_mul(1000)? + rest.parse::<u32>().ok()?.min(9) * 100;
            (metres_per_hour > 0).then_some(Haversine {
                road_percent: percent.parse().ok()?,
                metres_per_hour,
            })
        };
        parse().ok_or_else(|| UnknownSource(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONDON: Point = Point {
        lat: 51.5074,
        lon: -0.1278,
    };
    const PARIS: Point = Point {
        lat: 48.8566,
        lon: 2.3522,
    };

    #[test]
    fn london_to_paris_is_344_kilometres_as_the_crow_flies() {
        let crow = Haversine {
            road_percent: 100,
            metres_per_hour: 40_000,
        };
        assert!((343_000..345_000).contains(&crow.metres(LONDON, PARIS)));
        let road = Haversine {
            road_percent: 130,
            ..crow
        };
        assert!((446_000..448_000).contains(&road.metres(LONDON, PARIS)));
        assert_eq!(road.seconds(40_000), 3600);
        assert_eq!(road.seconds(1), 1);
    }

    #[test]
    fn the_text_of_a_source_reads_back() {
        for source in [
            Haversine::new(1.3, 40.0),
            Haversine::new(1.0, 5.5),
            Haversine::new(2.25, 130.0),
        ] {
            assert_eq!(source.to_string().parse(), Ok(source));
        }
        assert_eq!(Haversine::new(1.3, 40.0).to_string(), "haversine 130% 40.0km/h");
        assert!("osrm".parse::<Haversine>().is_err());
    }

    #[test]
    fn a_depot_has_roads_of_its_own() {
        let fleet = Haversine::new(1.3, 40.0);
        assert_eq!(fleet.at_depot(None, None), fleet);
        assert_eq!(fleet.at_depot(Some(1.45), None), Haversine::new(1.45, 40.0));
        assert_eq!(fleet.at_depot(Some(1.2), Some(27.5)), Haversine::new(1.2, 27.5));
    }

    #[test]
    fn a_point_that_cannot_be_right_is_refused_with_what_is_wrong() {
        let at = |lat, lon| misplaced(LONDON, Point { lat, lon }, 200_000);
        assert_eq!(at(51.6, -0.2), None);
        assert_eq!(at(91.0, 0.0), Some(Misplaced::Latitude));
        assert_eq!(at(f64::NAN, 0.0), Some(Misplaced::Latitude));
        assert_eq!(at(51.0, -181.0), Some(Misplaced::Longitude));
        assert_eq!(at(-0.2, 51.6).map(Misplaced::field), Some("lat,lon"));
        assert!(matches!(
            at(-0.2, 51.6),
            Some(Misplaced::Swapped { swapped_km: 11, .. })
        ));
        assert!(matches!(at(48.8566, 2.3522), Some(Misplaced::TooFar { km: 344 })));
        // Swapped it is still far, or not on earth at all.
        assert!(matches!(at(-33.9, 151.2), Some(Misplaced::TooFar { .. })));
    }

    #[test]
    fn the_same_door_is_no_way_and_both_directions_are_equal() {
        let matrix = Haversine::new(1.3, 40.0).matrix(&[LONDON, PARIS, LONDON]);
        assert_eq!((matrix.metres(0, 2), matrix.seconds(0, 2)), (0, 0));
        assert_eq!(matrix.metres(0, 1), matrix.metres(1, 0));
    }
}
