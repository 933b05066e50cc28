//! Values on their way into the database: parameters of a query and cells of a batch of rows.

use std::fmt::Write;

/// One parameter of a query.
#[derive(Clone, Debug)]
pub enum Param {
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
    NullInt,
    NullText,
    NullBytes,
}

/// Builds the parameter list of a query: `params![room_nid, "name"]`.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => { [$($crate::storage::Param::from($value)),*] };
}

/// Conversions into a type, each with its expression.
macro_rules! conversions {
    ($target:ident: $($from:ty => |$value:ident| $into:expr;)*) => {
        $(impl From<$from> for $target {
            fn from($value: $from) -> Self {
                $into
            }
        })*
    };
}

conversions! { Param:
    i64 => |value| Self::Int(value);
    i32 => |value| Self::Int(value.into());
    u32 => |value| Self::Int(value.into());
    u64 => |value| Self::Int(value.cast_signed());
    usize => |value| Self::Int(i64::try_from(value).unwrap_or(i64::MAX));
    bool => |value| Self::Int(value.into());
    &str => |value| Self::Text(value.to_owned());
    &String => |value| Self::Text(value.clone());
    String => |value| Self::Text(value);
    &[u8] => |value| Self::Bytes(value.to_vec());
    Vec<u8> => |value| Self::Bytes(value);
    Option<i64> => |value| value.map_or(Self::NullInt, Self::Int);
    Option<u64> => |value| value.map_or(Self::NullInt, |number| Self::Int(number.cast_signed()));
    Option<&str> => |value| value.map_or(Self::NullText, Self::from);
    Option<String> => |value| value.map_or(Self::NullText, Self::Text);
    Option<Vec<u8>> => |value| value.map_or(Self::NullBytes, Self::Bytes);
}

/// Live events are this far apart in their room's order, so that late ones fit between.
pub const ORDERING_STEP: i64 = 1 << 16;

/// One cell of a row that is written in a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    Null,
    Int(i64),
    /// Must not contain `\u{0}`, which neither database takes in text; see [`Cell::Bytes`].
    Text(Box<str>),
    /// Arrives as hexadecimal digits: read it with `unhex(value->>N)`.
    Bytes(Box<[u8]>),
    /// The stream position that the writer assigns at commit, counted within its job.
    Position(u32),
    /// That position's place in the order of a room.
    Ordering(u32),
}

conversions! { Cell:
    i64 => |value| Self::Int(value);
    i32 => |value| Self::Int(value.into());
    u32 => |value| Self::Int(value.into());
    u64 => |value| Self::Int(value.cast_signed());
    usize => |value| Self::Int(i64::try_from(value).unwrap_or(i64::MAX));
    bool => |value| Self::Int(value.into());
    &str => |value| Self::Text(value.into());
    &String => |value| Self::Text(value.as_str().into());
    String => |value| Self::Text(value.into());
    &[u8] => |value| Self::Bytes(value.into());
    Vec<u8> => |value| Self::Bytes(value.into());
    Option<i64> => |value| value.map_or(Self::Null, Self::Int);
    Option<u64> => |value| value.map_or(Self::Null, Self::from);
    Option<&str> => |value| value.map_or(Self::Null, Self::from);
    Option<String> => |value| value.map_or(Self::Null, Self::from);
    Option<&[u8]> => |value| value.map_or(Self::Null, Self::from);
}

impl Cell {
    /// Appends the cell as JSON; `first_position` is what the writer assigned to the job.
    pub(super) fn write_json(&self, first_position: i64, json: &mut String) {
        let written = match self {
            Self::Null => write!(json, "null"),
            Self::Int(number) => write!(json, "{number}"),
            Self::Text(text) => return write_json_text(text, json),
            Self::Bytes(bytes) => return write_hex(bytes, json),
            Self::Position(offset) => write!(json, "{}", first_position + i64::from(*offset)),
            Self::Ordering(offset) => {
                write!(json, "{}", (first_position + i64::from(*offset)) * ORDERING_STEP)
            }
        };
        written.expect("writing to a String cannot fail");
    }

    /// Whether the writer can store it.
    pub(super) fn is_storable(&self) -> bool {
        !matches!(self, Self::Text(text) if text.contains('\0'))
    }
}

fn write_json_text(text: &str, json: &mut String) {
    json.push('"');
    let mut clean_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        json.push_str(&text[clean_from..at]);
        clean_from = at + 1;
        match byte {
            b'"' => json.push_str("\\\""),
            b'\\' => json.push_str("\\\\"),
            _ => write!(json, "\\u{byte:04x}").expect("writing to a String cannot fail"),
        }
    }
    json.push_str(&text[clean_from..]);
    json.push('"');
}

pub(super) fn write_hex(bytes: &[u8], json: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    json.push('"');
    for byte in bytes {
        json.push(char::from(DIGITS[usize::from(byte >> 4)]));
        json.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cell: Cell, expect: &str) {
        let mut json = String::new();
        cell.write_json(10, &mut json);
        assert_eq!(json, expect);
    }

    #[test]
    fn cells_become_json() {
        check(Cell::Null, "null");
        check((-3_i64).into(), "-3");
        check("a\"b\\c\nü".into(), r#""a\"b\\c\u000aü""#);
        check(vec![0_u8, 255].into(), "\"00ff\"");
        check(Cell::Position(2), "12");
        check(Cell::Ordering(1), "720896");
    }
}
