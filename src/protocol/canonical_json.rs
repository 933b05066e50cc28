//! Canonical JSON: the one encoding of a JSON value that is hashed and signed.
//!
//! Not for JSON that is only passed on. Source: specification, appendices, "Canonical JSON", and for the
//! strictness of each room version "Canonical JSON" in content/rooms/.

use std::io;

use serde_json::{Map, Value, ser::Formatter};

/// The deepest nesting of arrays and objects that is read (the limit of the JSON reader, far beyond any
/// honest event). Functions here recurse at most this deep.
pub const NESTING_DEPTH_MAX: usize = 127;

/// The largest magnitude of an integer: 2^53 - 1 (appendices, "Canonical JSON").
pub const INTEGER_MAX: i64 = (1 << 53) - 1;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalJsonError {
    #[error("the JSON cannot be read: {0}")]
    Syntax(String),
    #[error("the JSON is not an object")]
    NotAnObject,
    #[error("a number is not an integer")]
    NotAnInteger,
    #[error("an integer is outside -(2^53 - 1) to 2^53 - 1")]
    IntegerOutOfRange,
    #[error("the JSON is nested deeper than {NESTING_DEPTH_MAX} levels")]
    TooDeep,
}

/// Reads an object from untrusted text. Lone surrogates, trailing text and nesting beyond
/// [`NESTING_DEPTH_MAX`] are errors; of a repeated key the last value counts.
pub fn parse_object(json: &str) -> Result<Map<String, Value>, CanonicalJsonError> {
    match serde_json::from_str(json) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(CanonicalJsonError::NotAnObject),
        Err(error) if error.to_string().starts_with("recursion limit") => {
            Err(CanonicalJsonError::TooDeep)
        }
        Err(error) => Err(CanonicalJsonError::Syntax(error.to_string())),
    }
}

/// Encodes `value` as the events of all room versions are encoded. Numbers that strict versions forbid
/// are written as the reference implementation (Python's `json`) writes them.
pub fn encode(value: &Value) -> String {
    let mut text = String::new();
    append(&mut text, value);
    text
}

/// Appends the canonical encoding of `value` to `text`.
pub fn append(text: &mut String, value: &impl serde::Serialize) {
    let mut serializer = serde_json::Serializer::with_formatter(Utf8Sink(text), Canonical);
    value
        .serialize(&mut serializer)
        .expect("a JSON value always serialises, and writing to a string cannot fail");
}

/// Encodes `object` without the top-level keys in `skipped`, which saves copying it first.
pub fn encode_without(object: &Map<String, Value>, skipped: &[&str]) -> String {
    let mut text = String::with_capacity(512);
    text.push('{');
    for (key, value) in object {
        if skipped.contains(&key.as_str()) {
            continue;
        }
        if text.len() > 1 {
            text.push(',');
        }
        append(&mut text, key);
        text.push(':');
        append(&mut text, value);
    }
    text.push('}');
    text
}

/// Turns numbers with an integral value in the allowed range into integers, as the transformation of the
/// appendices does (`1e10`, `-0`). Events never pass through this: their numbers are refused or kept.
pub fn normalise_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64()
                && number.is_f64()
                && float.fract() == 0.0
                && float.abs() <= INTEGER_MAX as f64
            {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalise_numbers),
        Value::Object(object) => object.values_mut().for_each(normalise_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Checks that `value` is representable in canonical JSON, as room versions from 6 on demand.
pub fn check_strict(value: &Value) -> Result<(), CanonicalJsonError> {
    check_strict_at(value, 0)
}

/// As [`check_strict`], for an object.
pub fn check_strict_object(object: &Map<String, Value>) -> Result<(), CanonicalJsonError> {
    object.values().try_for_each(|value| check_strict_at(value, 1))
}

/// As [`check_strict`], for a value that lies `depth` levels deep in what is made of it.
pub(super) fn check_strict_at(value: &Value, depth: usize) -> Result<(), CanonicalJsonError> {
    match value {
        Value::Array(_) | Value::Object(_) if depth >= NESTING_DEPTH_MAX => {
            Err(CanonicalJsonError::TooDeep)
        }
        Value::Number(number) if number.is_f64() => {
            // The reader turns integers beyond 64 bits into floats.
            match number.as_f64() {
                Some(float) if float.abs() >= 9.2e18 => Err(CanonicalJsonError::IntegerOutOfRange),
                _ => Err(CanonicalJsonError::NotAnInteger),
            }
        }
        Value::Number(number) => match number.as_i64() {
            Some(integer) if integer.unsigned_abs() <= INTEGER_MAX as u64 => Ok(()),
            _ => Err(CanonicalJsonError::IntegerOutOfRange),
        },
        Value::Array(items) => items.iter().try_for_each(|item| check_strict_at(item, depth + 1)),
        Value::Object(object) => {
            object.values().try_for_each(|item| check_strict_at(item, depth + 1))
        }
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

/// Writes as `serde_json` does, but floats as Python's `repr`.
struct Canonical;

impl Formatter for Canonical {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(format_float(value).as_bytes())
    }
}

/// `value` as Python prints it: positional for exponents from -4 to 15, otherwise `1e+16`, `1.5e-07`.
fn format_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let positional = value.to_string();
        return if positional.contains('.') { positional } else { positional + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// Lets the serialiser, which writes bytes, append to a string.
struct Utf8Sink<'a>(&'a mut String);

impl io::Write for Utf8Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.0.push_str(text);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
