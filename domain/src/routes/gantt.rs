//! A plan as time: for each vehicle a strip of what it does from leaving to coming home, and behind each stop, a line below
//! another, the window it has to be served in. One SVG picture like the [`map`](super::map), in the same colours.

use super::{
    map::words_of,
    markup::{clock, count, escape, ink_on, kilometres, put, shortened},
    sheet::{Call, Sheet, Tour},
};

const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 14.0;
const HEAD: f64 = 84.0;
/// Left of the strips: the vehicles' names.
const NAMES: f64 = 140.0;
const AXIS: f64 = WIDTH - NAMES - 2.0 * MARGIN - 10.0;
/// The strip itself, and the room above it for the numbers of short stops.
const STRIP: f64 = 18.0;
const OVER: f64 = 13.0;
/// A window's line, where there is room.
const LANE_MAX: f64 = 5.0;
const LANES_MAX: f64 = 100.0;
const GAP: f64 = 12.0;
/// A number is written into a stop that is at least so wide, and above it otherwise.
const NUMBER_WIDTH: f64 = 15.0;
const FONT: &str = "Helvetica, Arial, 'Liberation Sans', sans-serif";
const HOUR: i32 = 3600;

/// Draws a plan.
pub fn gantt(sheet: &Sheet) -> String {
    let axis = Axis::of(sheet);
    let rows: Vec<f64> = sheet.routes.iter().map(row_height).collect();
    let height = HEAD + rows.iter().sum::<f64>().max(40.0) + MARGIN;
    let mut svg = String::with_capacity(64 * 1024);
    head(&mut svg, sheet, height);
    hours(&mut svg, &axis, height);
    let mut y = HEAD;
    for (tour, row) in sheet.routes.iter().zip(&rows) {
        name(&mut svg, tour, y);
        windows(&mut svg, &axis, tour, y + OVER + STRIP + 3.0);
        strip(&mut svg, &axis, tour, y + OVER);
        y += row;
        put!(
            svg,
            r##"<path d="M{MARGIN} {:.1}H{}" stroke="#ddd"/>"##,
            y - GAP / 2.0,
            WIDTH - MARGIN
        );
    }
    if sheet.routes.is_empty() {
        put!(svg, r##"<text x="{MARGIN}" y="{}">No routes.</text>"##, HEAD + 20.0);
    }
    svg.push_str("</svg>\n");
    svg
}

fn lane(tour: &Tour) -> f64 {
    LANE_MAX.min(LANES_MAX / tour.stops.len().max(1) as f64)
}

fn row_height(tour: &Tour) -> f64 {
    (OVER + STRIP + 6.0 + lane(tour) * tour.stops.len() as f64).max(46.0) + GAP
}

/// From when until when, in whole hours.
struct Axis {
    start: i32,
    end: i32,
}

impl Axis {
    fn of(sheet: &Sheet) -> Axis {
        let start = sheet
            .routes
            .iter()
            .map(|tour| tour.departs_at)
            .min()
            .unwrap_or(8 * HOUR);
        let end = sheet
            .routes
            .iter()
            .map(|tour| tour.returns_at)
            .max()
            .unwrap_or(18 * HOUR);
        let start = start.div_euclid(HOUR) * HOUR;
        Axis {
            start,
            end: (end + HOUR - 1).div_euclid(HOUR).max(start / HOUR + 1) * HOUR,
        }
    }

    fn at(&self, seconds: i32) -> f64 {
        let share = f64::from(seconds.clamp(self.start, self.end) - self.start) / f64::from(self.end - self.start);
        MARGIN + NAMES + share * AXIS
    }
}

fn head(svg: &mut String, sheet: &Sheet, height: f64) {
    let title = sheet.title();
    put!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" font-family="{FONT}" font-size="12" fill="#222" role="img">"##
    );
    put!(svg, "<title>{}</title>", escape(&title));
    put!(
        svg,
        r##"<defs><pattern id="rest" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#fff"/><rect width="2.5" height="6" fill="#444"/></pattern></defs>"##
    );
    put!(svg, r##"<rect width="{WIDTH}" height="{height:.0}" fill="#fff"/>"##);
    put!(
        svg,
        r##"<text x="{MARGIN}" y="25" font-size="18" font-weight="bold">{}</text>"##,
        escape(&shortened(&title, 90))
    );
    // What is what.
    let (y, mut x) = (37.0, MARGIN);
    let mut item = |svg: &mut String, shape: &str, label: &str, width: f64| {
        put!(
            svg,
            r##"<g transform="translate({x} {y})">{shape}<text x="30" y="11" font-size="11" fill="#555">{label}</text></g>"##
        );
        x += width;
    };
    item(
        svg,
        r##"<path d="M0 7H24" stroke="#444" stroke-width="3"/>"##,
        "drive",
        80.0,
    );
    item(
        svg,
        r##"<rect y="1.5" width="24" height="11" fill="#fff" stroke="#999" stroke-dasharray="3 2"/>"##,
        "wait",
        78.0,
    );
    item(svg, r##"<rect width="24" height="14" fill="#0072b2"/>"##, "serve", 84.0);
    item(
        svg,
        r##"<rect width="24" height="14" fill="url(#rest)" stroke="#444"/>"##,
        "break",
        84.0,
    );
    item(
        svg,
        r##"<rect y="5" width="24" height="4" fill="#0072b2" opacity="0.3"/><rect x="9" y="5" width="5" height="4" fill="#0072b2"/>"##,
        "window of a stop, and when in it",
        200.0,
    );
}

fn hours(svg: &mut String, axis: &Axis, height: f64) {
    let hours = (axis.end - axis.start) / HOUR;
    // Labels need forty pixels.
    let step = (f64::from(hours) * 40.0 / AXIS).ceil().max(1.0) as i32;
    for hour in 0..=hours {
        let x = axis.at(axis.start + hour * HOUR);
        put!(
            svg,
            r##"<path d="M{x:.1} {}V{:.1}" stroke="#e4e4e4"/>"##,
            HEAD - 8.0,
            height - MARGIN
        );
        if hour % step == 0 {
            put!(
                svg,
                r##"<text x="{x:.1}" y="{}" font-size="11" fill="#555" text-anchor="middle">{}</text>"##,
                HEAD - 13.0,
                clock(axis.start + hour * HOUR)
            );
        }
    }
}

fn name(svg: &mut String, tour: &Tour, y: f64) {
    put!(
        svg,
        r##"<text x="{MARGIN}" y="{:.1}" font-weight="bold">{}</text><text x="{MARGIN}" y="{:.1}" font-size="11" fill="#555">{}, {}</text>"##,
        y + OVER + 10.0,
        escape(&shortened(&tour.vehicle, 18)),
        y + OVER + 25.0,
        count(tour.stops.len(), "stop"),
        kilometres(tour.metres)
    );
}

/// Each stop's window on a line of its own, and on it the time of the service.
fn windows(svg: &mut String, axis: &Axis, tour: &Tour, top: f64) {
    let lane = lane(tour);
    let thickness = (lane - 1.0).max(lane * 0.7);
    for (place, stop) in tour.stops.iter().enumerate() {
        let y = top + place as f64 * lane;
        let (from, to) = (axis.at(stop.window.start), axis.at(stop.window.end));
        put!(
            svg,
            r##"<g fill="{}"><title>{}</title><rect x="{from:.1}" y="{y:.1}" width="{:.1}" height="{thickness:.1}" opacity="0.25"/><rect x="{:.1}" y="{y:.1}" width="{:.1}" height="{thickness:.1}"/></g>"##,
            tour.colour,
            escape(&words_of(tour, stop)),
            (to - from).max(1.0),
            axis.at(stop.starts_at),
            (axis.at(stop.leaves_at) - axis.at(stop.starts_at)).max(1.0)
        );
    }
}

/// What a vehicle does between two times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Drive { metres: i64 },
    Wait,
    Rest,
}

/// Everything but the services, in order: from, until, what.
fn doings(tour: &Tour) -> Vec<(i32, i32, Doing)> {
    let mut doings = Vec::new();
    let mut clock = tour.departs_at;
    let rest_after = |served: usize| tour.rest.filter(|rest| rest.after_stops == served);
    let pause = |doings: &mut Vec<(i32, i32, Doing)>, served: usize, clock: i32| match rest_after(served) {
        None => clock,
        Some(rest) => {
            doings.push((clock, rest.starts_at, Doing::Wait));
            doings.push((rest.starts_at, rest.starts_at + rest.seconds, Doing::Rest));
            rest.starts_at + rest.seconds
        }
    };
    for (served, stop) in tour.stops.iter().enumerate() {
        let metres = stop.metres_from_previous;
        doings.push((clock, stop.arrives_at, Doing::Drive { metres }));
        clock = pause(&mut doings, served, stop.arrives_at);
        doings.push((clock, stop.starts_at, Doing::Wait));
        clock = stop.leaves_at;
    }
    clock = pause(&mut doings, tour.stops.len(), clock);
    let legs: i64 = tour.stops.iter().map(|stop| stop.metres_from_previous).sum();
    let metres = tour.metres - legs;
    doings.push((clock, tour.returns_at, Doing::Drive { metres }));
    doings.retain(|(from, until, _)| from < until);
    doings
}

fn strip(svg: &mut String, axis: &Axis, tour: &Tour, y: f64) {
    for (from, until, doing) in doings(tour) {
        let (x, width) = (axis.at(from), axis.at(until) - axis.at(from));
        let time = format!("{} to {}", clock(from), clock(until));
        match doing {
            Doing::Drive { metres } => put!(
                svg,
                r##"<g><title>drive {}, {time}</title><rect x="{x:.1}" y="{:.1}" width="{width:.1}" height="3" fill="#444"/></g>"##,
                kilometres(metres),
                y + STRIP / 2.0 - 1.5
            ),
            Doing::Wait => put!(
                svg,
                r##"<g><title>wait, {time}</title><rect x="{x:.1}" y="{:.1}" width="{width:.1}" height="{}" fill="#fff" stroke="#999" stroke-dasharray="3 2"/></g>"##,
                y + 3.0,
                STRIP - 6.0
            ),
            Doing::Rest => put!(
                svg,
                r##"<g><title>break, {time}</title><rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{STRIP}" fill="url(#rest)" stroke="#444"/></g>"##
            ),
        }
    }
    let mut free_from = f64::MIN;
    for stop in &tour.stops {
        free_from = service(svg, axis, tour, stop, y, free_from);
    }
}

/// One service, with its number in it, or above it where that does not touch the last number; returns where the next may
/// stand.
fn service(svg: &mut String, axis: &Axis, tour: &Tour, stop: &Call, y: f64, free_from: f64) -> f64 {
    let (x, end) = (axis.at(stop.starts_at), axis.at(stop.leaves_at));
    let width = (end - x).max(1.5);
    put!(
        svg,
        r##"<g><title>{}</title><rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{STRIP}" fill="{}" stroke="#fff" stroke-width="0.7"/>"##,
        escape(&words_of(tour, stop)),
        tour.colour
    );
    let middle = x + width / 2.0;
    let half = if stop.seq < 10 { 3.5 } else { 6.5 };
    let mut free_from = free_from;
    if width >= NUMBER_WIDTH {
        put!(
            svg,
            r##"<text x="{middle:.1}" y="{:.1}" font-size="11" font-weight="bold" text-anchor="middle" fill="{}">{}</text>"##,
            y + 13.0,
            ink_on(&tour.colour),
            stop.seq
        );
    } else if middle - half > free_from {
        put!(
            svg,
            r##"<text x="{middle:.1}" y="{:.1}" font-size="10" text-anchor="middle">{}</text>"##,
            y - 2.5,
            stop.seq
        );
        free_from = middle + half + 1.0;
    }
    svg.push_str("</g>\n");
    free_from
}
