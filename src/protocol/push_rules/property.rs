//! Properties of an event by their dot-separated path.
//!
//! Source: appendices, "Dot-separated property paths".

use std::borrow::Cow;

use serde_json::Value;

use super::PushEvent;

/// A path such as `content.m\.relates_to.rel_type`, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PropertyPath {
    names: Vec<String>,
}

impl PropertyPath {
    /// Takes `path` apart at its dots. `\.` is a dot and `\\` a backslash; other escapes stay as they are.
    pub fn parse(path: &str) -> Self {
        let mut names = vec![String::new()];
        let mut rest = path.chars();
        while let Some(character) = rest.next() {
            if character == '.' {
                names.push(String::new());
                continue;
            }
            let name = names.last_mut().expect("starts with one name and only grows");
            match (character, rest.as_str().chars().next()) {
                ('\\', Some(escaped @ ('.' | '\\'))) => {
                    name.push(escaped);
                    rest.next();
                }
                _ => name.push(character),
            }
        }
        Self { names }
    }

    pub fn is(&self, names: &[&str]) -> bool {
        self.names == names
    }

    /// The property of `event` that the path leads to.
    pub fn find<'a>(&self, event: &'a PushEvent<'_>) -> Option<Cow<'a, Value>> {
        let (first, rest) = self.names.split_first()?;
        if first != "content" {
            return if rest.is_empty() { find_field(event, first).map(Cow::Owned) } else { None };
        }
        let (first, rest) = rest.split_first()?;
        let property = event.content.get(first)?;
        rest.iter()
            .try_fold(property, |property, name| property.as_object()?.get(name))
            .map(Cow::Borrowed)
    }

    /// As [`PropertyPath::find`], for a property that is text, without copying it.
    pub fn find_text<'a>(&self, event: &'a PushEvent<'_>) -> Option<&'a str> {
        match self.names.as_slice() {
            [field] => find_text_field(event, field),
            [content, first, rest @ ..] if content == "content" => {
                let property = event.content.get(first)?;
                let descend = |property: &'a Value, name: &String| property.as_object()?.get(name);
                rest.iter().try_fold(property, descend)?.as_str()
            }
            _ => None,
        }
    }
}

fn find_field(event: &PushEvent<'_>, field: &str) -> Option<Value> {
    match field {
        "origin_server_ts" => Some(event.event.origin_server_ts().into()),
        _ => find_text_field(event, field).map(Value::from),
    }
}

fn find_text_field<'a>(event: &'a PushEvent<'_>, field: &str) -> Option<&'a str> {
    match field {
        "type" => Some(event.event.kind()),
        "sender" => Some(event.event.sender().as_str()),
        "room_id" => Some(event.event.room_id().as_str()),
        "event_id" => Some(event.event.event_id().as_str()),
        "state_key" => event.event.state_key(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::PropertyPath;

    #[test]
    fn escapes_protect_dots_and_backslashes() {
        let cases: [(&str, &[&str]); 6] = [
            ("content.body", &["content", "body"]),
            (r"content.m\.relates_to.rel_type", &["content", "m.relates_to", "rel_type"]),
            (r"content.m\\foo", &["content", r"m\foo"]),
            (r"content.\x", &["content", r"\x"]),
            (r"a\", &[r"a\"]),
            ("", &[""]),
        ];
        for (path, names) in cases {
            assert!(PropertyPath::parse(path).is(names), "{path}");
        }
    }
}
