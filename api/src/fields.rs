//! Reads a JSON object field by field and collects everything that is wrong with it, each with a JSON pointer.
//!
//! By hand, because a derived deserialiser stops at the first mistake and a caller wants all of them. A reader asks for
//! each field it knows; what nobody asked for is an unknown field. On a mistake the field's default stands in, and
//! [`read`] throws the whole value away.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::problem::{Fault, Problem};

/// What one field's parser says: its value, or a code and a sentence.
pub(crate) type Parsed<T> = Result<T, (&'static str, String)>;

/// The fields of one object, some of them asked for already.
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    at: String,
    asked: BTreeSet<&'static str>,
    faults: &'a mut Vec<Fault>,
}

/// Reads a whole body; 422 with every fault when there is one.
pub(crate) fn read<T>(body: &Value, reader: impl FnOnce(&mut Fields<'_>) -> T) -> Result<T, Problem> {
    let mut faults = Vec::new();
    let value = object(body, String::new(), &mut faults, reader);
    match value {
        Some(value) if faults.is_empty() => Ok(value),
        _ => Err(Problem::invalid(faults)),
    }
}

fn object<T>(
    value: &Value,
    at: String,
    faults: &mut Vec<Fault>,
    reader: impl FnOnce(&mut Fields<'_>) -> T,
) -> Option<T> {
    let Value::Object(object) = value else {
        faults.push(fault(
            at,
            "wrong_type",
            format!("must be an object, not {}", name_of(value)),
        ));
        return None;
    };
    let mut fields = Fields {
        object,
        at,
        asked: BTreeSet::new(),
        faults,
    };
    let read = reader(&mut fields);
    for name in object.keys().filter(|name| !fields.asked.contains(name.as_str())) {
        let pointer = format!("{}/{}", fields.at, escaped(name));
        fields
            .faults
            .push(fault(pointer, "unknown_field", "there is no such field".to_owned()));
    }
    Some(read)
}

impl Fields<'_> {
    /// A field that must be there.
    pub(crate) fn required<T: Default>(&mut self, name: &'static str, parse: impl FnOnce(&Value) -> Parsed<T>) -> T {
        match self.ask(name) {
            Some(value) => self.parsed(name, parse(&value)).unwrap_or_default(),
            None => {
                self.complain(name, "missing", "must be given".to_owned());
                T::default()
            }
        }
    }

    /// A field that may be absent or null.
    pub(crate) fn optional<T>(&mut self, name: &'static str, parse: impl FnOnce(&Value) -> Parsed<T>) -> Option<T> {
        match self.ask(name) {
            None | Some(Value::Null) => None,
            Some(value) => self.parsed(name, parse(&value)),
        }
    }

    /// A field of a merge patch: absent leaves it, null clears it.
    pub(crate) fn patch<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&Value) -> Parsed<T>,
    ) -> Option<Option<T>> {
        match self.ask(name) {
            None => None,
            Some(Value::Null) => Some(None),
            Some(value) => self.parsed(name, parse(&value)).map(Some),
        }
    }

    /// A field of a merge patch that cannot be cleared: absent leaves it, null is a fault.
    pub(crate) fn change<T>(&mut self, name: &'static str, parse: impl FnOnce(&Value) -> Parsed<T>) -> Option<T> {
        let value = self.ask(name)?;
        self.parsed(name, parse(&value))
    }

    /// A list of objects; faults inside carry their index.
    pub(crate) fn list<T>(
        &mut self,
        name: &'static str,
        length: RangeInclusive<usize>,
        mut reader: impl FnMut(&mut Fields<'_>) -> T,
    ) -> Vec<T> {
        let Some(value) = self.ask(name) else {
            self.complain(name, "missing", "must be given".to_owned());
            return Vec::new();
        };
        let Value::Array(items) = &value else {
            self.complain(name, "wrong_type", format!("must be an array, not {}", name_of(&value)));
            return Vec::new();
        };
        if !length.contains(&items.len()) {
            let detail = format!(
                "must have {} to {} items, not {}",
                length.start(),
                length.end(),
                items.len()
            );
            self.complain(name, "out_of_range", detail);
            return Vec::new();
        }
        items
            .iter()
            .enumerate()
            .filter_map(|(i, item)| object(item, format!("{}/{name}/{i}", self.at), self.faults, &mut reader))
            .collect()
    }

    /// Whether a field is there at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// Adds a fault that the reader found by itself; `under` is the rest of the pointer after this object.
    pub(crate) fn complain(&mut self, under: &str, code: &'static str, detail: String) {
        let pointer = format!("{}/{under}", self.at);
        self.faults.push(fault(pointer, code, detail));
    }

    fn ask(&mut self, name: &'static str) -> Option<Value> {
        self.asked.insert(name);
        self.object.get(name).cloned()
    }

    fn parsed<T>(&mut self, name: &str, parsed: Parsed<T>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err((code, detail)) => {
                self.complain(name, code, detail);
                None
            }
        }
    }
}

/// A text of that many characters, free of control characters.
pub(crate) fn text(length: RangeInclusive<usize>) -> impl Fn(&Value) -> Parsed<String> {
    move |value| {
        let text = string(value)?;
        let count = text.chars().count();
        if !length.contains(&count) {
            let detail = format!(
                "must have {} to {} characters, not {count}",
                length.start(),
                length.end()
            );
            return Err((if count > *length.end() { "too_long" } else { "too_short" }, detail));
        }
        if *length.start() > 0 && text.trim().is_empty() {
            return Err(("invalid", "must not be blank".to_owned()));
        }
        if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            return Err(("invalid", "must not hold control characters".to_owned()));
        }
        Ok(text.to_owned())
    }
}

/// A whole number in that range.
pub(crate) fn integer(range: RangeInclusive<i64>) -> impl Fn(&Value) -> Parsed<i64> {
    move |value| {
        let Value::Number(number) = value else {
            return Err(("wrong_type", format!("must be a whole number, not {}", name_of(value))));
        };
        let outside = || {
            (
                "out_of_range",
                format!("must be between {} and {}", range.start(), range.end()),
            )
        };
        match number.as_i64() {
            Some(number) if range.contains(&number) => Ok(number),
            Some(_) => Err(outside()),
            None if number.is_u64() => Err(outside()),
            None => Err(("wrong_type", "must be a whole number".to_owned())),
        }
    }
}

/// A whole number in that range, as an `i32`.
pub(crate) fn small_integer(range: RangeInclusive<i32>) -> impl Fn(&Value) -> Parsed<i32> {
    let (low, high) = (*range.start(), *range.end());
    move |value| {
        let number = integer(i64::from(low)..=i64::from(high))(value)?;
        i32::try_from(number).map_err(|_| ("out_of_range", format!("must be between {low} and {high}")))
    }
}

/// True or false.
pub(crate) fn boolean(value: &Value) -> Parsed<bool> {
    value
        .as_bool()
        .ok_or_else(|| ("wrong_type", format!("must be true or false, not {}", name_of(value))))
}

/// A number in that range.
pub(crate) fn number(range: RangeInclusive<f64>) -> impl Fn(&Value) -> Parsed<f64> {
    move |value| match value.as_f64() {
        Some(number) if range.contains(&number) => Ok(number),
        Some(_) => Err((
            "out_of_range",
            format!("must be between {} and {}", range.start(), range.end()),
        )),
        None => Err(("wrong_type", format!("must be a number, not {}", name_of(value)))),
    }
}

/// A list of texts.
pub(crate) fn words(value: &Value) -> Parsed<Vec<String>> {
    let Value::Array(items) = value else {
        return Err(("wrong_type", format!("must be an array, not {}", name_of(value))));
    };
    items.iter().map(|item| string(item).map(str::to_owned)).collect()
}

/// A UUID.
pub(crate) fn uuid(value: &Value) -> Parsed<Uuid> {
    Uuid::try_parse(string(value)?).map_err(|_| ("invalid", "must be a UUID".to_owned()))
}

/// A day.
pub(crate) fn date(value: &Value) -> Parsed<NaiveDate> {
    let is_date = |text: &str| text.len() == 10;
    let parsed = string(value)?;
    match parsed.parse() {
        Ok(date) if is_date(parsed) => Ok(date),
        _ => Err(("invalid", "must be a date like 2026-11-22".to_owned())),
    }
}

/// An instant in RFC 3339.
pub(crate) fn instant(value: &Value) -> Parsed<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(string(value)?)
        .map(|at| at.to_utc())
        .map_err(|_| {
            (
                "invalid",
                "must be an RFC 3339 time like 2026-11-22T08:00:00Z".to_owned(),
            )
        })
}

/// One of a few words.
pub(crate) fn one_of(words: &'static [&'static str]) -> impl Fn(&Value) -> Parsed<String> {
    move |value| {
        let word = string(value)?;
        if words.contains(&word) {
            Ok(word.to_owned())
        } else {
            Err(("invalid", format!("must be one of {}", words.join(", "))))
        }
    }
}

/// A list of short texts.
pub(crate) fn texts(
    count: RangeInclusive<usize>,
    length: RangeInclusive<usize>,
) -> impl Fn(&Value) -> Parsed<Vec<String>> {
    move |value| {
        let Value::Array(items) = value else {
            return Err((
                "wrong_type",
                format!("must be an array of texts, not {}", name_of(value)),
            ));
        };
        if !count.contains(&items.len()) {
            let detail = format!(
                "must have {} to {} items, not {}",
                count.start(),
                count.end(),
                items.len()
            );
            return Err(("out_of_range", detail));
        }
        items.iter().map(text(length.clone())).collect()
    }
}

/// A currency: three capital letters.
pub(crate) fn currency(value: &Value) -> Parsed<String> {
    let word = string(value)?;
    if word.len() == 3 && word.bytes().all(|b| b.is_ascii_uppercase()) {
        Ok(word.to_owned())
    } else {
        Err(("invalid", "must be three capital letters like GBP".to_owned()))
    }
}

/// A token of the payment gateway; never a card number.
pub(crate) fn payment_method(value: &Value) -> Parsed<String> {
    let token = string(value)?;
    let rest = token.strip_prefix("pm_").unwrap_or_default();
    let is_token = (1..=250).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_token {
        Ok(token.to_owned())
    } else {
        Err((
            "invalid",
            "must be a gateway token pm_…; card numbers are not taken here".to_owned(),
        ))
    }
}

/// Any object.
pub(crate) fn any_object(value: &Value) -> Parsed<Value> {
    if value.is_object() {
        Ok(value.clone())
    } else {
        Err(("wrong_type", format!("must be an object, not {}", name_of(value))))
    }
}

fn string(value: &Value) -> Parsed<&str> {
    match value {
        Value::String(text) if text.contains('\0') => Err(("invalid", "must not hold a zero byte".to_owned())),
        Value::String(text) => Ok(text),
        other => Err(("wrong_type", format!("must be a text, not {}", name_of(other)))),
    }
}

fn fault(pointer: String, code: &'static str, detail: String) -> Fault {
    Fault {
        place: "body",
        pointer,
        code: code.into(),
        detail,
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A name inside a JSON pointer.
fn escaped(name: &str) -> String {
    name.chars()
        .take(100)
        .collect::<String>()
        .replace('~', "~0")
        .replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_mistake_is_told_at_once_with_its_pointer() {
        let body = json!({"name": 7, "lines": [{"qty": 0}, {"qty": 1, "a/b": 1}], "extra": null});
        let problem = read(&body, |f| {
            f.required("name", text(1..=5));
            f.required("email", text(1..=5));
            f.list("lines", 1..=5, |line| {
                line.required("qty", integer(1..=10));
            });
        })
        .expect_err("the body is wrong");
        let answer: Value = serde_json::from_str(&problem.into_answer().body).expect("it is JSON");
        let seen: Vec<_> = answer["errors"]
            .as_array()
            .expect("there are errors")
            .iter()
            .map(|e| {
                format!(
                    "{} {}",
                    e["pointer"].as_str().expect("text"),
                    e["code"].as_str().expect("text")
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                "/name wrong_type",
                "/email missing",
                "/lines/0/qty out_of_range",
                "/lines/1/a~1b unknown_field",
                "/extra unknown_field"
            ]
        );
    }
}
