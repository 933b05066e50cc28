//! Reads the events out of a large answer while it comes in, so that the answer as a whole is never in
//! memory. Only finds where values begin and end: whether an event is one is for `verify`.

use serde_json::{Map, Value};

/// The longest text of one event: its size in canonical JSON is 64 KiB at most, escapes and spaces may
/// make it longer.
const EVENT_TEXT_BYTES_MAX: usize = 256 << 10;
/// The rest of an answer: the join as it was signed, the names of servers.
const REST_BYTES_MAX: usize = 16 << 20;

/// Why an answer cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArraysError {
    #[error("it is no JSON object")]
    NotAnObject,
    #[error("an event of it is longer than {EVENT_TEXT_BYTES_MAX} bytes")]
    EventTooLong,
    #[error("it has more than {REST_BYTES_MAX} bytes beside the events")]
    RestTooLong,
    #[error("a part of it is no JSON: {0}")]
    Malformed(String),
    #[error("it ends too early")]
    Unfinished,
    #[error("it goes on behind its end")]
    GoesOn,
}

/// One event of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundEvent {
    /// Index into the names that [`EventArrays::new`] was given.
    pub array: usize,
    pub text: String,
}

/// Finds the elements of some arrays of a JSON object that comes in pieces. What stands before the first
/// brace is passed over, so that the answers of old endpoints (`[200, {…}]`) can be read, too.
pub struct EventArrays {
    names: &'static [&'static str],
    place: Place,
    /// The bytes of the value that is being read.
    value: Vec<u8>,
    /// Braces and brackets that are open within it.
    depth: usize,
    string: StringPart,
    name: String,
    rest: Map<String, Value>,
    rest_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    BeforeObject,
    /// Between a brace or comma and the next name.
    BeforeName,
    Name,
    BeforeValue,
    /// A value of the object that is none of the arrays.
    Value,
    /// Within one of the arrays, between elements.
    Array(usize),
    Element(usize),
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StringPart {
    Outside,
    Inside,
    AfterBackslash,
}

impl EventArrays {
    pub fn new(names: &'static [&'static str]) -> Self {
        Self {
            names,
            place: Place::BeforeObject,
            value: Vec::new(),
            depth: 0,
            string: StringPart::Outside,
            name: String::new(),
            rest: Map::new(),
            rest_bytes: 0,
        }
    }

    /// Reads on; adds the events that end in this piece.
    pub fn read(&mut self, piece: &[u8], found: &mut Vec<FoundEvent>) -> Result<(), ArraysError> {
        for &byte in piece {
            self.take(byte, found)?;
        }
        Ok(())
    }

    /// The rest of the object, when it has ended.
    pub fn finish(self) -> Result<Map<String, Value>, ArraysError> {
        match self.place {
            Place::Done => Ok(self.rest),
            _ => Err(ArraysError::Unfinished),
        }
    }

    fn take(&mut self, byte: u8, found: &mut Vec<FoundEvent>) -> Result<(), ArraysError> {
        match self.place {
            Place::BeforeObject => {
                if byte == b'{' {
                    self.place = Place::BeforeName;
                } else if !byte.is_ascii_whitespace()
                    && !b"[,".contains(&byte)
                    && !byte.is_ascii_digit()
                {
                    return Err(ArraysError::NotAnObject);
                }
            }
            Place::BeforeName => match byte {
                b'"' => self.begin(Place::Name, byte),
                b'}' => self.place = Place::Done,
                b',' => {}
                byte if byte.is_ascii_whitespace() => {}
                _ => return Err(ArraysError::NotAnObject),
            },
            Place::Name => {
                if self.push(byte)? {
                    self.name = parse(&self.value)?;
                    self.place = Place::BeforeValue;
                }
            }
            Place::BeforeValue => self.begin_value(byte),
            Place::Value => self.take_value(byte)?,
            Place::Array(array) => match byte {
                b']' => self.place = Place::BeforeName,
                b',' => {}
                byte if byte.is_ascii_whitespace() => {}
                _ => self.begin(Place::Element(array), byte),
            },
            Place::Element(array) => {
                if self.depth == 0 && self.string == StringPart::Outside {
                    return Err(ArraysError::Malformed("an event is no object".to_owned()));
                }
                if self.push(byte)? {
                    let text = String::from_utf8(std::mem::take(&mut self.value));
                    let text = text.map_err(|error| ArraysError::Malformed(error.to_string()))?;
                    found.push(FoundEvent { array, text });
                    self.place = Place::Array(array);
                }
            }
            Place::Done if byte.is_ascii_whitespace() || byte == b']' => {}
            Place::Done => return Err(ArraysError::GoesOn),
        }
        Ok(())
    }

    fn begin_value(&mut self, byte: u8) {
        if byte.is_ascii_whitespace() || byte == b':' {
            return;
        }
        let array = self.names.iter().position(|name| *name == self.name);
        match array.filter(|_| byte == b'[') {
            Some(array) => self.place = Place::Array(array),
            None => self.begin(Place::Value, byte),
        }
    }

    fn take_value(&mut self, byte: u8) -> Result<(), ArraysError> {
        let is_bare = self.depth == 0 && self.string == StringPart::Outside;
        // Numbers and words end where the next thing begins.
        let ends_bare = is_bare && (b",}".contains(&byte) || byte.is_ascii_whitespace());
        if ends_bare || self.push(byte)? {
            self.rest_bytes += self.value.len();
            let value = parse(&self.value)?;
            self.rest.insert(std::mem::take(&mut self.name), value);
            self.place = Place::BeforeName;
            if ends_bare && byte == b'}' {
                self.place = Place::Done;
            }
        }
        match self.rest_bytes + self.value.len() > REST_BYTES_MAX {
            true => Err(ArraysError::RestTooLong),
            false => Ok(()),
        }
    }

    fn begin(&mut self, place: Place, byte: u8) {
        self.place = place;
        self.value.clear();
        self.depth = 0;
        self.string = StringPart::Outside;
        self.note(byte);
        self.value.push(byte);
    }

    /// Adds a byte to the value; true when the value is a string, object or array and ends with it.
    fn push(&mut self, byte: u8) -> Result<bool, ArraysError> {
        let is_element = matches!(self.place, Place::Element(_));
        if is_element && self.value.len() >= EVENT_TEXT_BYTES_MAX {
            return Err(ArraysError::EventTooLong);
        }
        self.value.push(byte);
        let was_inside = self.string != StringPart::Outside || self.depth > 0;
        self.note(byte);
        Ok(was_inside && self.string == StringPart::Outside && self.depth == 0)
    }

    fn note(&mut self, byte: u8) {
        self.string = match (self.string, byte) {
            (StringPart::Outside, b'"') => StringPart::Inside,
            (StringPart::Inside, b'"') => StringPart::Outside,
            (StringPart::Inside, b'\\') => StringPart::AfterBackslash,
            (StringPart::AfterBackslash, _) => StringPart::Inside,
            (string, _) => string,
        };
        if self.string == StringPart::Outside {
            match byte {
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, ArraysError> {
    serde_json::from_slice(bytes).map_err(|error| ArraysError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(
        text: &str,
        piece: usize,
    ) -> Result<(Vec<FoundEvent>, Map<String, Value>), ArraysError> {
        let mut arrays = EventArrays::new(&["state", "auth_chain"]);
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(piece) {
            arrays.read(piece, &mut found)?;
        }
        Ok((found, arrays.finish()?))
    }

    #[test]
    fn events_are_found_however_the_answer_is_cut() {
        let text = r#" {"origin": "a\"]}b", "state" : [ {"a":"}\\"}, {"b":[{}]} ],"n":12,
            "auth_chain":[{"c":1}], "members_omitted":true, "servers_in_room":["x","y"],"event":{}}"#;
        for piece in [1, 2, 3, 7, text.len()] {
            let (found, rest) = read(text, piece).unwrap();
            let found: Vec<_> = found.iter().map(|event| (event.array, &*event.text)).collect();
            assert_eq!(
                found,
                [(0, r#"{"a":"}\\"}"#), (0, r#"{"b":[{}]}"#), (1, r#"{"c":1}"#)],
                "in pieces of {piece}"
            );
            let expected = json!({
                "origin": "a\"]}b", "n": 12, "members_omitted": true, "event": {},
                "servers_in_room": ["x", "y"],
            });
            assert_eq!(Value::Object(rest), expected);
        }
    }

    #[test]
    fn answers_of_old_endpoints_are_read() {
        let (found, _) = read(r#"[200, {"state": [{}], "auth_chain": []}]"#, 4).unwrap();
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        assert_eq!(read("<html>", 3), Err(ArraysError::NotAnObject));
        assert_eq!(read(r#"{"state": []}, {"state": []}"#, 3), Err(ArraysError::GoesOn));
        assert_eq!(read(r#"{"state": [{}"#, 3), Err(ArraysError::Unfinished));
        assert!(matches!(read(r#"{"state": [1, 2]}"#, 3), Err(ArraysError::Malformed(_))));
        assert!(matches!(read(r#"{"n": tru}"#, 3), Err(ArraysError::Malformed(_))));
        let long = format!(r#"{{"state":[{{"a":"{}"}}]}}"#, "x".repeat(EVENT_TEXT_BYTES_MAX));
        assert_eq!(read(&long, 4096), Err(ArraysError::EventTooLong));
    }
}
