//! When a cron expression ticks in a time zone.
//!
//! croner reads the expression and says which days it means. What a change of the clocks does to a tick is decided
//! here, because there is a rule to keep and croner does not keep it everywhere: it searches a gap for two hours only (a
//! zone may skip a whole day), and it takes `0 2,14 * * *` for an interval.
//!
//! The rule:
//!
//! - With `*` or `/` among its minutes or hours an expression follows **real time**: it ticks at every instant whose local
//!   time matches. What the clocks skip does not happen, what they repeat happens twice.
//! - Every other expression names **times of day**, each of which ticks once on its day: at the first of the two instants when
//!   the clocks repeat it, and right after the gap when they skip it. Several skipped in one gap are one tick.
//!
//! Nothing here reads a clock: every function is one of the instant it is given.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds, Year};

/// The longest expression that is read, in characters.
pub const LENGTH_MAX: usize = 200;

/// As far as a tick is looked for. 29 February on a given weekday comes at most 40 years later, since 2100 has none.
const DAYS_MAX: u32 = 41 * 366;

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// Why an expression or a zone is refused, in words for the one who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The expression cannot be read, or can never tick.
    #[error("cron expression {0:?}: {1}")]
    Cron(String, String),
    /// There is no such zone.
    #[error("there is no time zone {0:?}; their names are like Europe/Berlin or UTC")]
    TimeZone(String),
}

/// A cron expression in a time zone.
#[derive(Clone)]
pub struct Cron {
    pattern: croner::CronPattern,
    zone: Tz,
    minutes: Vec<u32>,
    hours: Vec<u32>,
    names_times: bool,
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.pattern, self.zone)
    }
}

impl Cron {
    /// Reads five fields (minute, hour, day, month, weekday) or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    ///
    /// Refuses what can never tick, such as 30 February. A field of seconds is refused on purpose: the timetable is for
    /// what happens at most once a minute.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, Refused> {
        let shown = || cron.chars().take(LENGTH_MAX).collect::<String>();
        let refuse = |why: String| Refused::Cron(shown(), why);
        let zone = zone
            .parse()
            .map_err(|_| Refused::TimeZone(zone.chars().take(100).collect()))?;
        if cron.len() > LENGTH_MAX {
            return Err(refuse(format!("has more than {LENGTH_MAX} characters")));
        }
        check_words(cron).map_err(refuse)?;
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let pattern = parser.parse(cron).map_err(|error| refuse(error.to_string()))?.pattern;
        // As croner leaves it: words are numbers, and nicknames are fields.
        let mut fields = pattern.as_str().split_whitespace();
        let mut is_list = || fields.next().is_some_and(|field| !field.contains(['*', '/']));
        let names_times = is_list() && is_list();
        let numbers = |values: Vec<u16>| values.into_iter().map(u32::from).collect();
        let found = Self {
            minutes: numbers(pattern.minutes.values()),
            hours: numbers(pattern.hours.values()),
            pattern,
            zone,
            names_times,
        };
        // Any instant does: the calendar is the same every 28 years.
        let ticks = found.after(DateTime::UNIX_EPOCH).next().is_some();
        match ticks {
            true => Ok(found),
            false => Err(refuse("never comes: there is no such day".to_owned())),
        }
    }

    /// The ticks after an instant, the earliest first.
    pub fn after(&self, after: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        let days = (0..DAYS_MAX).map_while(move |n| after.date_naive().checked_add_days(Days::new(n.into())));
        days.flat_map(|day| self.on(day)).filter(move |tick| *tick > after)
    }

    /// The ticks up to an instant, the latest first.
    pub fn until(&self, until: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        let days = (0..DAYS_MAX).map_while(move |n| until.date_naive().checked_sub_days(Days::new(n.into())));
        days.flat_map(|day| self.on(day).into_iter().rev())
            .filter(move |tick| *tick <= until)
    }

    /// The ticks of one day of UTC, in order.
    fn on(&self, day: NaiveDate) -> BTreeSet<DateTime<Utc>> {
        let start = day.and_time(chrono::NaiveTime::MIN).and_utc();
        let end = start + TimeDelta::days(1);
        // The day before the first: a whole day that the clocks skip ends on the next one.
        let first = start.with_timezone(&self.zone).date_naive() - Days::new(1);
        let last = end.with_timezone(&self.zone).date_naive();
        let dates: Vec<NaiveDate> = first
            .iter_days()
            .take_while(|date| *date <= last)
            .filter(|date| self.is_day(*date))
            .collect();
        if dates.is_empty() {
            return BTreeSet::new();
        }
        if !self.names_times {
            return (0..24 * 60)
                .map(|minute| start + TimeDelta::minutes(minute))
                .filter(|tick| self.matches(&dates, tick.with_timezone(&self.zone).naive_local()))
                .collect();
        }
        let times = dates.iter().flat_map(|date| {
            let minutes = |hour| self.minutes.iter().map(move |minute| (hour, *minute));
            let times = self.hours.iter().copied().flat_map(minutes);
            times.filter_map(|(hour, minute)| date.and_hms_opt(hour, minute, 0))
        });
        times
            .filter_map(|time| self.instant(time))
            .filter(|tick| (start..end).contains(tick))
            .collect()
    }

    /// The first instant of a local time, or of what comes after the gap it lies in.
    fn instant(&self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        const GAP_MINUTES_MAX: i64 = 2 * 24 * 60;
        (0..GAP_MINUTES_MAX)
            .find_map(|minutes| {
                self.zone
                    .from_local_datetime(&(local + TimeDelta::minutes(minutes)))
                    .earliest()
            })
            .map(|at| at.to_utc())
    }

    fn is_day(&self, date: NaiveDate) -> bool {
        let weekday = croner::Weekday::from_days_from_sunday(date.weekday().num_days_from_sunday());
        let is_month = self.pattern.month_match(date.month());
        let is_day = self.pattern.day_match(date.year(), date.month(), date.day(), weekday);
        is_month.unwrap_or(false) && is_day.unwrap_or(false)
    }

    fn matches(&self, dates: &[NaiveDate], local: NaiveDateTime) -> bool {
        self.minutes.binary_search(&local.minute()).is_ok()
            && self.hours.binary_search(&local.hour()).is_ok()
            && dates.contains(&local.date())
    }
}

/// croner replaces the names of days and months wherever they stand, and leaves out empty items of a list.
fn check_words(cron: &str) -> Result<(), String> {
    let fields: Vec<String> = cron.split_whitespace().map(str::to_uppercase).collect();
    if fields.first().is_some_and(|field| field.starts_with('@')) {
        let known = ["@HOURLY", "@DAILY", "@WEEKLY", "@MONTHLY", "@YEARLY", "@ANNUALLY"];
        return match fields.len() == 1 && known.contains(&fields[0].as_str()) {
            true => Ok(()),
            false => Err("is none of @hourly, @daily, @weekly, @monthly and @yearly".to_owned()),
        };
    }
    let names = ["minute", "hour", "day", "month", "weekday"];
    if fields.len() != names.len() {
        return Err(format!(
            "has {} fields, not the five: minute, hour, day, month, weekday (there are no seconds and no years)",
            fields.len()
        ));
    }
    for (field, name) in fields.iter().zip(names) {
        let is_word = |word: &str| match name {
            "day" => matches!(word, "L" | "W" | "LW"),
            "month" => MONTHS.contains(&word),
            "weekday" => {
                word == "L" || WEEKDAYS.contains(&word.strip_suffix('L').filter(|day| day.len() == 3).unwrap_or(word))
            }
            _ => false,
        };
        let mut words = field
            .split(|c: char| !c.is_alphabetic())
            .filter(|word| !word.is_empty());
        if let Some(word) = words.find(|word| !is_word(word)) {
            return Err(format!("{word} does not belong into the field of the {name}"));
        }
        if field.split(',').any(str::is_empty) {
            return Err(format!("the list of the field of the {name} has an empty place"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Local ticks, with their offsets, after a local time that exists once.
    fn ticks(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = Cron::parse(cron, zone).expect("it can be read");
        let after = after.parse::<NaiveDateTime>().expect("a local time");
        let after = cron
            .zone
            .from_local_datetime(&after)
            .single()
            .expect("a time that exists once");
        let ticks: Vec<DateTime<Utc>> = cron.after(after.to_utc()).take(count).collect();
        let mut back: Vec<DateTime<Utc>> = match ticks.last() {
            Some(last) => cron.until(*last).take(count).collect(),
            None => Vec::new(),
        };
        back.reverse();
        assert_eq!(ticks, back, "forwards and backwards are the same ticks");
        ticks
            .into_iter()
            .map(|tick| tick.with_timezone(&cron.zone).format("%m-%dT%H:%M%:z").to_string())
            .collect()
    }

    #[test]
    fn the_clocks_change_and_every_tick_keeps_the_rule() {
        // What it shows; expression; zone; after; ticks.
        type Case = (
            &'static str,
            &'static str,
            &'static str,
            &'static str,
            &'static [&'static str],
        );
        const CASES: &[Case] = &[
            // Berlin: 2026-03-29 02:00 → 03:00, 2026-10-25 03:00 → 02:00.
            (
                "a daily time in the gap ticks right after it",
                "30 2 * * *",
                "Europe/Berlin",
                "2026-03-28T00:00:00",
                &["03-28T02:30+01:00", "03-29T03:00+02:00", "03-30T02:30+02:00"],
            ),
            (
                "a daily time at the start of the gap does too",
                "0 2 * * *",
                "Europe/Berlin",
                "2026-03-28T12:00:00",
                &["03-29T03:00+02:00", "03-30T02:00+02:00"],
            ),
            (
                "one at its end is not in it",
                "0 3 * * *",
                "Europe/Berlin",
                "2026-03-28T12:00:00",
                &["03-29T03:00+02:00", "03-30T03:00+02:00"],
            ),
            (
                "times that fall together are one tick",
                "0,30 2,3 * * *",
                "Europe/Berlin",
                "2026-03-28T12:00:00",
                &["03-29T03:00+02:00", "03-29T03:30+02:00", "03-30T02:00+02:00"],
            ),
            (
                "a list of hours names times of day",
                "0 2,14 * * *",
                "Europe/Berlin",
                "2026-03-29T00:00:00",
                &["03-29T03:00+02:00", "03-29T14:00+02:00"],
            ),
            (
                "an interval leaves the gap out",
                "*/30 * * * *",
                "Europe/Berlin",
                "2026-03-29T01:00:00",
                &["03-29T01:30+01:00", "03-29T03:00+02:00", "03-29T03:30+02:00"],
            ),
            (
                "so does one of hours",
                "15 */2 * * *",
                "Europe/Berlin",
                "2026-03-29T00:00:00",
                &["03-29T00:15+01:00", "03-29T04:15+02:00"],
            ),
            (
                "a daily time that comes twice ticks the first time",
                "30 2 * * *",
                "Europe/Berlin",
                "2026-10-24T12:00:00",
                &["10-25T02:30+02:00", "10-26T02:30+01:00"],
            ),
            (
                "one at the boundary too",
                "0 2,3 * * *",
                "Europe/Berlin",
                "2026-10-24T12:00:00",
                &["10-25T02:00+02:00", "10-25T03:00+01:00", "10-26T02:00+01:00"],
            ),
            (
                "an interval ticks in both halves",
                "*/30 * * * *",
                "Europe/Berlin",
                "2026-10-25T01:30:00",
                &[
                    "10-25T02:00+02:00",
                    "10-25T02:30+02:00",
                    "10-25T02:00+01:00",
                    "10-25T02:30+01:00",
                    "10-25T03:00+01:00",
                ],
            ),
            // New York: 2026-03-08 and 2026-11-01.
            (
                "a gap on the day before the fifteenth changes nothing",
                "0 12 8,15 * *",
                "America/New_York",
                "2026-03-01T00:00:00",
                &["03-08T12:00-04:00", "03-15T12:00-04:00"],
            ),
            (
                "a weekly time in the gap",
                "30 2 * * SUN",
                "America/New_York",
                "2026-03-07T00:00:00",
                &["03-08T03:00-04:00", "03-15T02:30-04:00"],
            ),
            (
                "hourly through the overlap",
                "@hourly",
                "America/New_York",
                "2026-11-01T00:30:00",
                &["11-01T01:00-04:00", "11-01T01:00-05:00", "11-01T02:00-05:00"],
            ),
            // Sao Paulo had its gap at midnight: 2018-11-04 00:00 → 01:00, and back at 2018-02-18 00:00 → 23:00 the day before.
            (
                "midnight is in the gap",
                "0 0 * * *",
                "America/Sao_Paulo",
                "2018-11-03T12:00:00",
                &["11-04T01:00-02:00", "11-05T00:00-02:00"],
            ),
            (
                "a time before midnight comes twice",
                "30 23 * * *",
                "America/Sao_Paulo",
                "2018-02-17T12:00:00",
                &["02-17T23:30-02:00", "02-18T23:30-03:00"],
            ),
            (
                "an interval goes back over midnight",
                "*/30 * * * *",
                "America/Sao_Paulo",
                "2018-02-17T22:30:00",
                &[
                    "02-17T23:00-02:00",
                    "02-17T23:30-02:00",
                    "02-17T23:00-03:00",
                    "02-17T23:30-03:00",
                    "02-18T00:00-03:00",
                ],
            ),
            // Lord Howe moves by half an hour: 2026-10-04 02:00 → 02:30, 2026-04-05 02:00 → 01:30.
            (
                "a gap of half an hour",
                "15 2 * * *",
                "Australia/Lord_Howe",
                "2026-10-03T12:00:00",
                &["10-04T02:30+11:00", "10-05T02:15+11:00"],
            ),
            (
                "an interval over it",
                "*/15 * * * *",
                "Australia/Lord_Howe",
                "2026-10-04T01:30:00",
                &["10-04T01:45+10:30", "10-04T02:30+11:00", "10-04T02:45+11:00"],
            ),
            (
                "an overlap of half an hour",
                "45 1 * * *",
                "Australia/Lord_Howe",
                "2026-04-04T12:00:00",
                &["04-05T01:45+11:00", "04-06T01:45+10:30"],
            ),
            (
                "an interval over that",
                "*/15 * * * *",
                "Australia/Lord_Howe",
                "2026-04-05T01:15:00",
                &[
                    "04-05T01:30+11:00",
                    "04-05T01:45+11:00",
                    "04-05T01:30+10:30",
                    "04-05T01:45+10:30",
                    "04-05T02:00+10:30",
                ],
            ),
            (
                "a zone of half an hour that never changes",
                "0 9 * * MON-FRI",
                "Asia/Kolkata",
                "2026-11-20T12:00:00",
                &["11-23T09:00+05:30", "11-24T09:00+05:30"],
            ),
            // Casablanca is an hour back for Ramadan only: 2026-02-15 03:00 → 02:00, 2026-03-22 02:00 → 03:00.
            (
                "back for Ramadan",
                "30 2 * * *",
                "Africa/Casablanca",
                "2026-02-14T12:00:00",
                &["02-15T02:30+01:00", "02-16T02:30+00:00"],
            ),
            (
                "and forth after it",
                "30 2 * * *",
                "Africa/Casablanca",
                "2026-03-21T12:00:00",
                &["03-22T03:00+01:00", "03-23T02:30+01:00"],
            ),
            // Cairo: 2026-04-24 00:00 → 01:00, and back at 2026-10-30 00:00 → 23:00 the day before.
            (
                "a gap at midnight on one Friday",
                "0 0 * * FRI",
                "Africa/Cairo",
                "2026-04-23T00:00:00",
                &["04-24T01:00+03:00", "05-01T00:00+03:00"],
            ),
            (
                "the last hour of the day comes twice",
                "0 23 29 10 *",
                "Africa/Cairo",
                "2026-10-29T00:00:00",
                &["10-29T23:00+03:00", "10-29T23:00+02:00"],
            ),
            // Apia had no 2011-12-30 at all.
            (
                "a whole day is a gap",
                "0 12 * * *",
                "Pacific/Apia",
                "2011-12-29T00:00:00",
                &["12-29T12:00-10:00", "12-31T00:00+14:00", "12-31T12:00+14:00"],
            ),
            (
                "what is due on that day ticks after it",
                "0 12 30 12 *",
                "Pacific/Apia",
                "2011-12-29T00:00:00",
                &["12-31T00:00+14:00", "12-30T12:00+14:00"],
            ),
            (
                "an interval has no such day",
                "0 */12 * * *",
                "Pacific/Apia",
                "2011-12-29T00:00:00",
                &["12-29T12:00-10:00", "12-31T00:00+14:00", "12-31T12:00+14:00"],
            ),
            // Santiago: 2026-09-06 00:00 → 01:00. Beirut: 2026-03-29 00:00 → 01:00.
            (
                "midnight in Santiago",
                "0 0 * * *",
                "America/Santiago",
                "2026-09-05T12:00:00",
                &["09-06T01:00-03:00", "09-07T00:00-03:00"],
            ),
            (
                "half past midnight in Beirut",
                "30 0 * * *",
                "Asia/Beirut",
                "2026-03-28T12:00:00",
                &["03-29T01:00+03:00", "03-30T00:30+03:00"],
            ),
            (
                "a leap day, with none in 2100",
                "0 0 29 2 *",
                "UTC",
                "2096-01-01T00:00:00",
                &["02-29T00:00+00:00", "02-29T00:00+00:00"],
            ),
            (
                "the last day of each month",
                "59 23 L * *",
                "Europe/Berlin",
                "2028-01-31T23:59:00",
                &["02-29T23:59+01:00", "03-31T23:59+02:00", "04-30T23:59+02:00"],
            ),
            (
                "the last day of March in the gap's month",
                "30 2 L 3 *",
                "Europe/Berlin",
                "2024-01-01T00:00:00",
                &["03-31T03:00+02:00", "03-31T02:30+02:00"],
            ),
            (
                "the last Friday and the nearest weekday",
                "0 8 * * FRIL",
                "UTC",
                "2026-11-01T00:00:00",
                &["11-27T08:00+00:00", "12-25T08:00+00:00"],
            ),
            (
                "a day or a weekday, as cron has it",
                "0 0 13 * FRI",
                "UTC",
                "2026-11-05T00:00:00",
                &["11-06T00:00+00:00", "11-13T00:00+00:00", "11-20T00:00+00:00"],
            ),
        ];
        for (what, cron, zone, after, expected) in CASES {
            assert_eq!(
                ticks(cron, zone, after, expected.len()),
                *expected,
                "{what}: {cron} in {zone}"
            );
        }
    }

    #[test]
    fn a_leap_day_on_a_weekday_is_found_over_2100() {
        let cron = Cron::parse("0 0 29 2 +MON", "UTC").expect("it can be read");
        let after = "2050-01-01T00:00:00Z".parse().expect("a time");
        let first = cron.after(after).next().expect("a tick");
        let second = cron.after(first).next().expect("a tick");
        assert_eq!([first.year(), second.year()], [2072, 2112]);
    }

    #[test]
    fn ticks_around_every_change_of_the_clocks_agree_with_each_other() {
        // Every minute of real time has one tick of `* * * * *`, whatever the clocks do.
        for zone in [
            "Europe/Berlin",
            "Australia/Lord_Howe",
            "America/Santiago",
            "Africa/Casablanca",
        ] {
            let cron = Cron::parse("* * * * *", zone).expect("it can be read");
            let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().expect("a time");
            let ticks = cron.after(start).take(365 * 24 * 60);
            for (tick, minute) in ticks.zip(1..) {
                assert_eq!(tick, start + TimeDelta::minutes(minute), "{zone}");
            }
            // And a daily time has one tick for each day.
            let cron = Cron::parse("30 2 * * *", zone).expect("it can be read");
            let days: BTreeSet<NaiveDate> = cron
                .after(start)
                .take(365)
                .map(|tick| tick.with_timezone(&cron.zone).date_naive())
                .collect();
            assert_eq!(days.len(), 365, "{zone}");
        }
    }

    #[test]
    fn what_cannot_tick_or_be_read_is_refused_in_words() {
        let long = format!("0 0 {} * *", "1,".repeat(LENGTH_MAX) + "1");
        for (cron, zone, expected) in [
            ("0 0 30 2 *", "UTC", "never comes"),
            ("0 0 31 4,6,9,11 *", "UTC", "never comes"),
            ("* * * * * *", "UTC", "has 6 fields"),
            ("*/10 * * * * * 2026", "UTC", "has 7 fields"),
            ("", "UTC", "has 0 fields"),
            ("@reboot", "UTC", "none of @hourly"),
            ("@daily 5", "UTC", "none of @hourly"),
            ("60 * * * *", "UTC", "out of bounds"),
            ("* 24 * * *", "UTC", "out of bounds"),
            ("*/0 * * * *", "UTC", "zero"),
            ("5/10 * * * *", "UTC", "X-Y/10"),
            ("9-5 * * * *", "UTC", "out of bounds"),
            ("-1 * * * *", "UTC", "start of range"),
            ("0 0 1 MON *", "UTC", "MON does not belong into the field of the month"),
            ("SUN 0 * * *", "UTC", "SUN does not belong into the field of the minute"),
            (
                "0 0 * * JAN",
                "UTC",
                "JAN does not belong into the field of the weekday",
            ),
            ("1,,2 * * * *", "UTC", "empty place"),
            ("0 0 * * MON#6", "UTC", "out of bounds"),
            ("every day at noon", "UTC", "has 4 fields"),
            ("0 0 * * ☃", "UTC", "illegal"),
            (long.as_str(), "UTC", "more than 200 characters"),
            ("0 0 * * *", "Europe/Berlinn", "no time zone \"Europe/Berlinn\""),
            ("0 0 * * *", "", "no time zone"),
            ("0 0 * * *", "+02:00", "no time zone"),
        ] {
            let refused = Cron::parse(cron, zone).expect_err(cron).to_string();
            assert!(refused.contains(expected), "{cron}: {refused}");
        }
    }
}
