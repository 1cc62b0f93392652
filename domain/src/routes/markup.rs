//! What drawings and lists have in common: other people's words made harmless, colours, and numbers as people read them.

use std::borrow::Cow;

/// Writes a line to a string, which cannot fail.
macro_rules! put {
    ($text:expr, $($line:tt)*) => {{
        use std::fmt::Write as _;
        let _infallible = writeln!($text, $($line)*);
    }};
}
pub(super) use put;

/// Text as it stands in SVG and HTML, between tags and in quoted attributes. Names and addresses come from customers.
pub fn escape(text: &str) -> Cow<'_, str> {
    let is_special = |c: char| matches!(c, '&' | '<' | '>' | '"' | '\'') || is_no_xml(c);
    if !text.contains(is_special) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if is_no_xml(c) => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// Characters that no XML document may hold, even escaped.
fn is_no_xml(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

/// Told apart by most eyes, on white paper as well: the first eight are Okabe and Ito's, the yellow made darker.
const COLOURS: [&str; 12] = [
    "#0072b2", "#d55e00", "#009e73", "#a6508c", "#e69f00", "#56a5d8", "#222222", "#8a7a00", "#7b3fc4", "#b01030",
    "#6b4423", "#5a7d2b",
];

/// The colour of a plan's route at that place: after the twelfth, hues as far from the ones before as can be.
pub fn colour(place: usize) -> String {
    match COLOURS.get(place) {
        Some(colour) => (*colour).to_owned(),
        None => {
            // Steps of the golden angle never come back to the same hue; three shades alternate.
            let hue = (place as f64 * 137.508) % 360.0;
            let lightness = [0.38, 0.52, 0.30][place % 3];
            of_hue(hue, 0.75, lightness)
        }
    }
}

fn of_hue(hue: f64, saturation: f64, lightness: f64) -> String {
    let spread = saturation * lightness.min(1.0 - lightness);
    let part = |offset: f64| {
        let at = (offset + hue / 30.0) % 12.0;
        let share = lightness - spread * (at - 3.0).min(9.0 - at).clamp(-1.0, 1.0);
        (share * 255.0).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", part(0.0), part(8.0), part(4.0))
}

/// Black or white, whichever is read better on that colour.
pub fn ink_on(colour: &str) -> &'static str {
    let part = |at: usize| {
        let value = colour.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        f64::from(value.unwrap_or(0)) / 255.0
    };
    let linear = |value: f64| match value <= 0.04045 {
        true => value / 12.92,
        false => ((value + 0.055) / 1.055).powf(2.4),
    };
    let luminance = 0.2126 * linear(part(1)) + 0.7152 * linear(part(3)) + 0.0722 * linear(part(5));
    if luminance > 0.32 { "#000" } else { "#fff" }
}

/// Seconds after midnight as people read them.
pub fn clock(seconds: i32) -> String {
    format!("{:02}:{:02}", seconds / 3600, seconds / 60 % 60)
}

/// Metres as kilometres, to a hundred metres.
pub fn kilometres(metres: i64) -> String {
    format!("{:.1} km", metres as f64 / 1000.0)
}

/// Grams as kilograms, to a hundred grams where that matters.
pub fn kilograms(grams: i64) -> String {
    with_tenth(grams, "kg")
}

/// Cubic centimetres as litres.
pub fn litres(cm3: i64) -> String {
    with_tenth(cm3, "l")
}

fn with_tenth(thousandths: i64, unit: &str) -> String {
    let tenths = (thousandths + 50).div_euclid(100);
    match tenths % 10 == 0 || tenths >= 1000 {
        true => format!("{} {unit}", (tenths + 5) / 10),
        false => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

/// `1 stop`, `2 stops`.
pub fn count(number: usize, word: &str) -> String {
    match number {
        1 => format!("1 {word}"),
        _ => format!("{number} {word}s"),
    }
}

/// At most so many characters, with a mark where some are missing.
pub fn shortened(text: &str, length_max: usize) -> Cow<'_, str> {
    match text.chars().count() > length_max {
        false => Cow::Borrowed(text),
        true => {
            let kept: String = text.chars().take(length_max.saturating_sub(1)).collect();
            Cow::Owned(kept.trim_end().to_owned() + "…")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn other_peoples_words_are_harmless() {
        assert_eq!(
            escape(r#"<script>alert("x" & 'y')</script>"#),
            "&lt;script&gt;alert(&quot;x&quot; &amp; &#39;y&#39;)&lt;/script&gt;"
        );
        assert_eq!(escape("a\u{0}b\u{1b}c\u{ffff}"), "a\u{fffd}b\u{fffd}c\u{fffd}");
        assert!(matches!(escape("Straße 1, 東京"), Cow::Borrowed(_)));
    }

    #[test]
    fn two_hundred_routes_have_two_hundred_colours() {
        let colours: BTreeSet<String> = (0..200).map(colour).collect();
        assert_eq!(colours.len(), 200);
        assert!(
            colours
                .iter()
                .all(|colour| colour.len() == 7 && colour.starts_with('#'))
        );
        assert_eq!(ink_on("#ffffff"), "#000");
        assert_eq!(ink_on("#222222"), "#fff");
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(clock(8 * 3600 + 5 * 60 + 59), "08:05");
        assert_eq!(kilometres(84_249), "84.2 km");
        assert_eq!(
            (kilograms(4_000), kilograms(412), kilograms(1_234_567)),
            ("4 kg".into(), "0.4 kg".into(), "1235 kg".into())
        );
        assert_eq!(
            (count(1, "stop"), count(0, "stop")),
            ("1 stop".into(), "0 stops".into())
        );
        assert_eq!(shortened("Regency cakestand", 8), "Regency…");
    }
}
