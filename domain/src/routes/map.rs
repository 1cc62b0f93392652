//! A plan as a map: one SVG picture, with no script, no tiles and nothing from elsewhere, so it is the same in a page, in a
//! mail and on paper.
//!
//! Places are projected as Mercator did it. A stop's number stands on its place; where places are too close, the numbers
//! move apart and a thin line leads back. Routes are straight from stop to stop, for nobody here knows the roads; the ways
//! from and to the depot are faint, or they would cover all else.

use std::f64::consts::{FRAC_PI_4, PI};

use super::{
    distance::Point,
    markup::{clock, count, escape, ink_on, kilograms, kilometres, put, shortened},
    sheet::{Call, LeftOut, Sheet, Tour},
};

const WIDTH: f64 = 1000.0;
const HEAD: f64 = 58.0;
const MARGIN: f64 = 14.0;
/// The map's own width; what is right of it is the legend.
const MAP_WIDTH: f64 = 730.0;
const MAP_HEIGHT_MIN: f64 = 460.0;
const MAP_HEIGHT_MAX: f64 = 900.0;
/// Between the outermost places and the edge.
const PADDING: f64 = 34.0;
const LEGEND_ROW: f64 = 36.0;
/// The shortest side of what is shown, in metres: a plan with one stop next door is a map all the same.
const SPAN_METRES_MIN: f64 = 400.0;
/// How often numbers that touch are pushed apart.
const PUSHES_MAX: usize = 400;
/// How many reasons the legend has room for.
const REASONS_MAX: usize = 8;
const FONT: &str = "Helvetica, Arial, 'Liberation Sans', sans-serif";

/// Draws a plan.
pub fn map(sheet: &Sheet) -> String {
    let view = View::of(sheet);
    let legend = sheet.routes.len() as f64 * LEGEND_ROW + 90.0 + sheet.tally().len().min(REASONS_MAX) as f64 * 16.0;
    let height = HEAD + view.height.max(legend) + MARGIN;
    let mut svg = String::with_capacity(64 * 1024);
    head(&mut svg, sheet, height);
    frame(&mut svg, &view);
    for tour in &sheet.routes {
        line(&mut svg, &view, sheet, tour);
    }
    for left in &sheet.left_out {
        cross(&mut svg, &view, left);
    }
    let depot = view.place(sheet.depot_point());
    numbers(&mut svg, &view, sheet, depot);
    square(&mut svg, sheet, depot);
    scale(&mut svg, &view);
    svg.push_str("</g>\n");
    key(&mut svg, sheet);
    svg.push_str("</svg>\n");
    svg
}

/// What part of the earth is shown, and how.
struct View {
    /// Mercator's x and y of the upper left corner of the map.
    left: f64,
    top: f64,
    /// Pixels for one unit of his.
    zoom: f64,
    height: f64,
    /// Whose day crosses the line of dates is shown in one piece.
    is_over_dateline: bool,
    metres_per_pixel: f64,
}

impl View {
    fn of(sheet: &Sheet) -> View {
        let stops = sheet.routes.iter().flat_map(|tour| &tour.stops).map(Call::point);
        let points: Vec<Point> = std::iter::once(sheet.depot_point()).chain(stops).collect();
        let bounds = |numbers: &mut dyn Iterator<Item = f64>| {
            numbers.fold((f64::MAX, f64::MIN), |(low, high), number| {
                (low.min(number), high.max(number))
            })
        };
        let (west, east) = bounds(&mut points.iter().map(|point| point.lon));
        let is_over_dateline = east - west > 180.0;
        let places: Vec<(f64, f64)> = points.iter().map(|point| mercator(*point, is_over_dateline)).collect();
        let (mut left, mut right) = bounds(&mut places.iter().map(|place| place.0));
        let (mut top, mut bottom) = bounds(&mut places.iter().map(|place| place.1));
        let metres_per_unit = sheet.depot.lat.to_radians().cos().max(0.01) * 6_371_008.8;
        for (low, high) in [(&mut left, &mut right), (&mut top, &mut bottom)] {
            let missing = SPAN_METRES_MIN / metres_per_unit - (*high - *low);
            if missing > 0.0 {
                (*low, *high) = (*low - missing / 2.0, *high + missing / 2.0);
            }
        }
        let (width, inner_height) = (MAP_WIDTH - 2.0 * PADDING, bottom - top);
        let height = (width / (right - left) * inner_height + 2.0 * PADDING).clamp(MAP_HEIGHT_MIN, MAP_HEIGHT_MAX);
        let zoom = (width / (right - left)).min((height - 2.0 * PADDING) / inner_height);
        // In the middle of what room there is.
        let (spare_x, spare_y) = (MAP_WIDTH / zoom - (right - left), height / zoom - inner_height);
        View {
            left: left - spare_x / 2.0,
            top: top - spare_y / 2.0,
            zoom,
            height,
            is_over_dateline,
            metres_per_pixel: metres_per_unit / zoom,
        }
    }

    /// Where a point is drawn, from the map's upper left corner.
    fn place(&self, point: Point) -> (f64, f64) {
        let (x, y) = mercator(point, self.is_over_dateline);
        ((x - self.left) * self.zoom, (y - self.top) * self.zoom)
    }
}

/// East and south, in radians at the equator.
fn mercator(point: Point, is_over_dateline: bool) -> (f64, f64) {
    let lon = match is_over_dateline && point.lon < 0.0 {
        true => point.lon + 360.0,
        false => point.lon,
    };
    // The poles lie at infinity.
    let lat = point.lat.clamp(-85.0, 85.0).to_radians();
    (lon.to_radians(), -(FRAC_PI_4 + lat / 2.0).tan().ln())
}

fn head(svg: &mut String, sheet: &Sheet, height: f64) {
    let (title, sums) = (sheet.title(), sheet.sums());
    put!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" font-family="{FONT}" font-size="12" fill="#222" role="img">"##
    );
    put!(svg, "<title>{}</title>", escape(&title));
    put!(svg, r##"<rect width="{WIDTH}" height="{height:.0}" fill="#fff"/>"##);
    put!(
        svg,
        r##"<text x="{MARGIN}" y="25" font-size="18" font-weight="bold">{}</text>"##,
        escape(&shortened(&title, 90))
    );
    put!(
        svg,
        r##"<text x="{MARGIN}" y="45" fill="#555">{}</text>"##,
        escape(&shortened(&sums, 150))
    );
}

/// The map's sheet of paper; what follows is drawn from its corner.
fn frame(svg: &mut String, view: &View) {
    put!(
        svg,
        r##"<clipPath id="map"><rect width="{MAP_WIDTH}" height="{:.0}"/></clipPath>"##,
        view.height
    );
    put!(
        svg,
        r##"<g transform="translate({MARGIN} {HEAD})" clip-path="url(#map)">"##
    );
    put!(
        svg,
        r##"<rect x="0.5" y="0.5" width="{}" height="{:.0}" fill="#fbfaf7" stroke="#bbb"/>"##,
        MAP_WIDTH - 1.0,
        view.height - 1.0
    );
}

fn line(svg: &mut String, view: &View, sheet: &Sheet, tour: &Tour) {
    let places: Vec<String> = tour
        .stops
        .iter()
        .map(|stop| view.place(stop.point()))
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        return;
    };
    let depot = view.place(sheet.depot_point());
    let (colour, depot) = (&tour.colour, format!("{:.1},{:.1}", depot.0, depot.1));
    put!(
        svg,
        r##"<g fill="none" stroke="{colour}" stroke-linejoin="round" stroke-linecap="round"><title>{}</title>"##,
        escape(&sums_of(tour))
    );
    put!(
        svg,
        r##"<polyline points="{depot} {first}" stroke-width="1.5" stroke-dasharray="1 5" opacity="0.75"/>"##
    );
    put!(
        svg,
        r##"<polyline points="{last} {depot}" stroke-width="1.5" stroke-dasharray="1 5" opacity="0.75"/>"##
    );
    put!(
        svg,
        r##"<polyline points="{}" stroke-width="2.5" opacity="0.85"/>"##,
        places.join(" ")
    );
    svg.push_str("</g>\n");
}

/// A shipment on no route.
fn cross(svg: &mut String, view: &View, left: &LeftOut) {
    let (x, y) = view.place(Point {
        lat: left.lat,
        lon: left.lon,
    });
    if !(0.0..=MAP_WIDTH).contains(&x) || !(0.0..=view.height).contains(&y) {
        return;
    }
    put!(
        svg,
        r##"<g stroke="#555" stroke-width="2"><title>{}</title><path d="M{:.1} {:.1}l8 8m0 -8l-8 8"/></g>"##,
        escape(&format!("{}: {}", left.customer, left.why)),
        x - 4.0,
        y - 4.0
    );
}

/// Every stop's number, none on another.
fn numbers(svg: &mut String, view: &View, sheet: &Sheet, depot: (f64, f64)) {
    let stops: Vec<(&Tour, &Call)> = sheet
        .routes
        .iter()
        .flat_map(|tour| tour.stops.iter().map(move |stop| (tour, stop)))
        .collect();
    let radius = match stops.len() {
        0..=60 => 10.0,
        61..=150 => 8.5,
        _ => 7.0,
    };
    let homes: Vec<(f64, f64)> = stops.iter().map(|(_, stop)| view.place(stop.point())).collect();
    let places = apart(&homes, depot, radius, view.height);
    for ((tour, _), (home, place)) in stops.iter().zip(homes.iter().zip(&places)) {
        if (home.0 - place.0).hypot(home.1 - place.1) > 2.0 {
            put!(
                svg,
                r##"<path d="M{:.1} {:.1}L{:.1} {:.1}" stroke="{}"/><circle cx="{:.1}" cy="{:.1}" r="2" fill="{}"/>"##,
                home.0,
                home.1,
                place.0,
                place.1,
                tour.colour,
                home.0,
                home.1,
                tour.colour
            );
        }
    }
    for ((tour, stop), (x, y)) in stops.iter().zip(&places) {
        let size = if stop.seq < 100 { radius * 1.1 } else { radius * 0.85 };
        put!(
            svg,
            r##"<g><title>{}</title><circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{}" stroke="#fff" stroke-width="1.5"/><text x="{x:.1}" y="{:.1}" font-size="{size:.1}" font-weight="bold" text-anchor="middle" fill="{}">{}</text></g>"##,
            escape(&words_of(tour, stop)),
            tour.colour,
            y + size * 0.36,
            ink_on(&tour.colour),
            stop.seq
        );
    }
}

/// Moves circles that touch apart, a little at a time, and all away from the depot's square.
fn apart(homes: &[(f64, f64)], depot: (f64, f64), radius: f64, height: f64) -> Vec<(f64, f64)> {
    let mut places = homes.to_vec();
    let distance_min = 2.0 * radius + 1.5;
    let depot_distance_min = radius + 11.0;
    for _ in 0..PUSHES_MAX {
        let mut has_moved = false;
        for one in 0..places.len() {
            for other in one + 1..places.len() {
                let (dx, dy) = (places[other].0 - places[one].0, places[other].1 - places[one].1);
                if dx.abs() >= distance_min || dy.abs() >= distance_min {
                    continue;
                }
                let distance = dx.hypot(dy);
                if distance >= distance_min {
                    continue;
                }
                let (ux, uy) = direction((dx, dy), distance, other);
                let push = (distance_min - distance) / 2.0 + 0.05;
                places[one] = (places[one].0 - ux * push, places[one].1 - uy * push);
                places[other] = (places[other].0 + ux * push, places[other].1 + uy * push);
                has_moved = true;
            }
        }
        for (at, place) in places.iter_mut().enumerate() {
            let (dx, dy) = (place.0 - depot.0, place.1 - depot.1);
            let distance = dx.hypot(dy);
            if distance < depot_distance_min {
                let (ux, uy) = direction((dx, dy), distance, at);
                let push = depot_distance_min - distance + 0.05;
                *place = (place.0 + ux * push, place.1 + uy * push);
                has_moved = true;
            }
            let edge = radius + 2.0;
            *place = (
                place.0.clamp(edge, MAP_WIDTH - edge),
                place.1.clamp(edge, height - edge),
            );
        }
        if !has_moved {
            break;
        }
    }
    places
}

/// Which way to push; those at the very same place each go their own.
fn direction((dx, dy): (f64, f64), distance: f64, at: usize) -> (f64, f64) {
    if distance > 0.01 {
        return (dx / distance, dy / distance);
    }
    let angle = at as f64 * PI * (3.0 - 5.0_f64.sqrt());
    (angle.cos(), angle.sin())
}

fn square(svg: &mut String, sheet: &Sheet, (x, y): (f64, f64)) {
    let name = format!("{} {}", sheet.depot.code, sheet.depot.name);
    put!(
        svg,
        r##"<g><title>{}</title><rect x="{:.1}" y="{:.1}" width="16" height="16" fill="#000" stroke="#fff" stroke-width="2"/><path d="M{:.1} {:.1}v-3.5l4.5 -3.5l4.5 3.5v3.5z" fill="#fff"/></g>"##,
        escape(&name),
        x - 8.0,
        y - 8.0,
        x - 4.5,
        y + 4.0
    );
}

/// How long a kilometre is here.
fn scale(svg: &mut String, view: &View) {
    let room = 160.0 * view.metres_per_pixel;
    let magnitude = 10_f64.powf(room.log10().floor());
    let length = [5.0, 2.0, 1.0]
        .map(|step| step * magnitude)
        .into_iter()
        .find(|length| *length <= room)
        .unwrap_or(magnitude);
    let (pixels, y) = (length / view.metres_per_pixel, view.height - 16.0);
    let label = match length >= 1000.0 {
        true => format!("{} km", length / 1000.0),
        false => format!("{length} m"),
    };
    put!(
        svg,
        r##"<path d="M16 {:.1}v6h{pixels:.1}v-6" fill="none" stroke="#fff" stroke-width="5"/><path d="M16 {:.1}v6h{pixels:.1}v-6" fill="none" stroke="#222" stroke-width="1.5"/><text x="{:.1}" y="{y:.1}" font-size="11" stroke="#fff" stroke-width="3" paint-order="stroke">{label}</text>"##,
        y - 6.0,
        y - 6.0,
        22.0 + pixels,
    );
}

/// Right of the map: who is what colour, and who was left out.
fn key(svg: &mut String, sheet: &Sheet) {
    let x = MARGIN + MAP_WIDTH + 18.0;
    let mut y = HEAD + 8.0;
    for tour in &sheet.routes {
        put!(
            svg,
            r##"<g><title>{}</title><rect x="{x}" y="{:.1}" width="14" height="14" rx="7" fill="{}"/><text x="{}" y="{:.1}" font-weight="bold">{}</text><text x="{}" y="{:.1}" font-size="11" fill="#555">{}</text></g>"##,
            escape(&sums_of(tour)),
            y - 2.0,
            tour.colour,
            x + 22.0,
            y + 9.0,
            escape(&shortened(&tour.vehicle, 26)),
            x + 22.0,
            y + 23.0,
            escape(&format!(
                "{}, {}, {}–{}",
                count(tour.stops.len(), "stop"),
                kilometres(tour.metres),
                clock(tour.departs_at),
                clock(tour.returns_at)
            ))
        );
        y += LEGEND_ROW;
    }
    if sheet.routes.is_empty() {
        put!(svg, r##"<text x="{x}" y="{:.1}">No routes.</text>"##, y + 9.0);
        y += LEGEND_ROW;
    }
    if sheet.plan.unassigned == 0 {
        return;
    }
    y += 12.0;
    put!(
        svg,
        r##"<path d="M{} {:.1}l8 8m0 -8l-8 8" stroke="#555" stroke-width="2"/><text x="{}" y="{:.1}" font-weight="bold">{} on no route</text>"##,
        x + 3.0,
        y + 1.0,
        x + 22.0,
        y + 9.0,
        sheet.plan.unassigned
    );
    for (reason, number) in sheet.tally().into_iter().take(REASONS_MAX) {
        y += 16.0;
        put!(
            svg,
            r##"<text x="{}" y="{:.1}" font-size="11" fill="#555">{number} {}</text>"##,
            x + 22.0,
            y + 9.0,
            escape(&shortened(&reason.replace('_', " "), 30))
        );
    }
}

fn sums_of(tour: &Tour) -> String {
    format!(
        "{}: {}, {}, {} of {}, {}–{}",
        tour.vehicle,
        count(tour.stops.len(), "stop"),
        kilometres(tour.metres),
        kilograms(tour.load.grams),
        kilograms(tour.capacity.grams),
        clock(tour.departs_at),
        clock(tour.returns_at)
    )
}

/// What a stop says under the mouse.
pub(super) fn words_of(tour: &Tour, stop: &Call) -> String {
    format!(
        "{} {}: {} to {}, open {} to {}, {}, {}",
        tour.vehicle,
        stop.seq,
        clock(stop.arrives_at),
        clock(stop.leaves_at),
        clock(stop.window.start),
        clock(stop.window.end),
        stop.customer,
        stop.address
    )
}

impl Sheet {
    fn depot_point(&self) -> Point {
        Point {
            lat: self.depot.lat,
            lon: self.depot.lon,
        }
    }
}

impl Call {
    fn point(&self) -> Point {
        Point {
            lat: self.lat,
            lon: self.lon,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_one_place_are_moved_until_none_touches_another() {
        let depot = (300.0, 300.0);
        let mut homes = vec![(300.0, 300.0); 12];
        homes.extend((0..18).map(|at| (500.0 + f64::from(at), 200.0)));
        homes.extend([(0.0, 0.0), (0.0, 1.0), (MAP_WIDTH, 600.0)]);
        let places = apart(&homes, depot, 10.0, 600.0);
        for (one, a) in places.iter().enumerate() {
            assert!((a.0 - depot.0).hypot(a.1 - depot.1) > 19.0, "{one} lies on the depot");
            assert!((12.0..=MAP_WIDTH - 12.0).contains(&a.0) && (12.0..=588.0).contains(&a.1));
            for (other, b) in places.iter().enumerate().skip(one + 1) {
                assert!((a.0 - b.0).hypot(a.1 - b.1) > 19.9, "{one} lies on {other}");
            }
        }
        assert_eq!(places, apart(&homes, depot, 10.0, 600.0), "the same picture every time");
    }

    #[test]
    fn mercator_keeps_north_up_and_the_dateline_in_one_piece() {
        let at = |lat, lon| mercator(Point { lat, lon }, true);
        assert!(at(60.0, 0.0).1 < at(50.0, 0.0).1);
        assert!(at(0.0, -179.0).0 > at(0.0, 179.0).0);
        assert!(at(90.0, 0.0).1.is_finite());
    }
}
