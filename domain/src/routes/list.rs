//! A plan on paper, for those who drive it: per vehicle its stops in order, when it is due there, when they are open, where
//! it is, and whose order. As text for a terminal or printer, or as an HTML page that prints a vehicle to a sheet.

use super::{
    markup::{clock, count, escape, kilograms, kilometres, litres, put},
    sheet::{Call, LeftOut, Sheet, Tour},
};

/// What the page looks like: the page may use this style and no other.
pub const STYLE: &str = "body{font:14px/1.35 Helvetica,Arial,'Liberation Sans',sans-serif;color:#111;margin:2em auto;max-width:60em;padding:0 1em}\
h1{font-size:1.4em;margin:0}h2{font-size:1.2em;margin:1.6em 0 .2em}p{margin:.2em 0 .6em;color:#444}\
table{border-collapse:collapse;width:100%}th{text-align:left;border-bottom:2px solid #111;padding:.25em .6em .25em 0}\
td{border-bottom:1px solid #bbb;padding:.4em .6em .4em 0;vertical-align:top}\
.n{text-align:right;white-space:nowrap}.t{white-space:nowrap}.s{width:8em}small{color:#555}\
@media print{body{margin:0;max-width:none;padding:0;font-size:11pt}section{break-after:page}section:last-child{break-after:auto}\
thead{display:table-header-group}tr{break-inside:avoid}}";

/// The list as an HTML page without scripts.
pub fn html(sheet: &Sheet) -> String {
    let mut page = String::with_capacity(32 * 1024);
    put!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">"
    );
    put!(
        page,
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
    );
    put!(
        page,
        "<title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
        escape(&sheet.title())
    );
    put!(
        page,
        "<h1>{}</h1>\n<p>{}</p>",
        escape(&sheet.title()),
        escape(&sheet.sums())
    );
    for tour in &sheet.routes {
        put!(
            page,
            "<section>\n<h2>{}</h2>\n<p>{}</p>",
            escape(&tour.vehicle),
            escape(&sums_of(tour))
        );
        put!(
            page,
            "<table>\n<thead><tr><th class=\"n\">#</th><th>Due</th><th>Open</th><th>Where</th><th>Order</th>\
             <th class=\"n\">Load</th><th class=\"s\">Received</th></tr></thead>\n<tbody>"
        );
        for (place, stop) in tour.stops.iter().enumerate() {
            if let Some(rest) = tour.rest.filter(|rest| rest.after_stops == place) {
                put!(page, "{}", break_row(rest.starts_at, rest.seconds));
            }
            put!(
                page,
                "<tr><td class=\"n\">{}</td><td class=\"t\">{}</td><td class=\"t\">{}–{}</td><td>{}<br><small>{}</small></td>\
                 <td>{}<br><small>{}</small></td><td class=\"n\">{}<br>{}</td><td></td></tr>",
                stop.seq,
                clock(stop.arrives_at),
                clock(stop.window.start),
                clock(stop.window.end),
                escape(address(stop)),
                escape(&stop.customer),
                escape(stop.reference.as_deref().unwrap_or("")),
                stop.order_id,
                kilograms(stop.load.grams),
                litres(stop.load.cm3)
            );
        }
        if let Some(rest) = tour.rest.filter(|rest| rest.after_stops == tour.stops.len()) {
            put!(page, "{}", break_row(rest.starts_at, rest.seconds));
        }
        put!(page, "</tbody>\n</table>\n</section>");
    }
    if !sheet.left_out.is_empty() {
        put!(page, "<section>\n<h2>{}</h2>", escape(&left_out_title(sheet)));
        put!(
            page,
            "<table>\n<thead><tr><th>Order</th><th>For</th><th>Why</th><th>Moved to</th></tr></thead>\n<tbody>"
        );
        for left in &sheet.left_out {
            put!(
                page,
                "<tr><td>{}<br><small>{}</small></td><td>{}</td><td>{}</td><td class=\"t\">{}</td></tr>",
                escape(left.reference.as_deref().unwrap_or("")),
                left.order_id,
                escape(&left.customer),
                escape(&left.why),
                moved_to(left)
            );
        }
        put!(page, "</tbody>\n</table>\n</section>");
    }
    put!(page, "</body>\n</html>");
    page
}

fn break_row(starts_at: i32, seconds: i32) -> String {
    format!(
        "<tr><td></td><td class=\"t\">{}</td><td colspan=\"5\">break, {} min</td></tr>",
        clock(starts_at),
        seconds / 60
    )
}

/// The list as text, in aligned columns.
pub fn text(sheet: &Sheet) -> String {
    let mut page = String::with_capacity(16 * 1024);
    put!(page, "{}\n{}", plain(&sheet.title()), plain(&sheet.sums()));
    for tour in &sheet.routes {
        put!(page, "\n{}: {}", plain(&tour.vehicle), sums_of(tour));
        let mut rows = vec![["#", "DUE", "OPEN", "WHERE", "FOR", "ORDER", "LOAD"].map(str::to_owned)];
        for (place, stop) in tour.stops.iter().enumerate() {
            rows.extend(tour.rest.filter(|rest| rest.after_stops == place).map(pause));
            rows.push([
                stop.seq.to_string(),
                clock(stop.arrives_at),
                format!("{}-{}", clock(stop.window.start), clock(stop.window.end)),
                plain(address(stop)),
                plain(&stop.customer),
                plain(stop.reference.as_deref().unwrap_or(&stop.order_id.to_string())),
                kilograms(stop.load.grams),
            ]);
        }
        rows.extend(tour.rest.filter(|rest| rest.after_stops == tour.stops.len()).map(pause));
        page.push_str(&aligned(&rows));
    }
    if !sheet.left_out.is_empty() {
        put!(page, "\n{}:", left_out_title(sheet));
        let mut rows = vec![["ORDER", "FOR", "WHY", "MOVED TO"].map(str::to_owned)];
        rows.extend(sheet.left_out.iter().map(|left| {
            [
                plain(left.reference.as_deref().unwrap_or(&left.order_id.to_string())),
                plain(&left.customer),
                plain(&left.why),
                moved_to(left),
            ]
        }));
        page.push_str(&aligned(&rows));
    }
    page
}

fn pause(rest: super::sheet::Rest) -> [String; 7] {
    let words = format!("break, {} min", rest.seconds / 60);
    ["", &clock(rest.starts_at), "", &words, "", "", ""].map(str::to_owned)
}

fn sums_of(tour: &Tour) -> String {
    format!(
        "{}, {}, {} and {}, leaves at {}, back at {}",
        count(tour.stops.len(), "stop"),
        kilometres(tour.metres),
        kilograms(tour.load.grams),
        litres(tour.load.cm3),
        clock(tour.departs_at),
        clock(tour.returns_at)
    )
}

fn left_out_title(sheet: &Sheet) -> String {
    let reasons: Vec<String> = sheet
        .tally()
        .into_iter()
        .map(|(reason, number)| format!("{number} {}", reason.replace('_', " ")))
        .collect();
    let more = sheet.plan.unassigned.max(0) as usize;
    let more = match more.saturating_sub(sheet.left_out.len()) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("On no route ({}{more})", reasons.join(", "))
}

fn moved_to(left: &LeftOut) -> String {
    left.moved_to.map_or_else(String::new, |date| date.to_string())
}

/// Where a stop is: its address, or where on earth when nobody wrote one.
fn address(stop: &Call) -> &str {
    match stop.address.trim() {
        "" => "(no address)",
        address => address,
    }
}

/// Other people's words in a column: on one line, and unable to steer a terminal.
fn plain(text: &str) -> String {
    text.split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Columns as wide as their widest cell.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
