//! The signature of a request (server-server API, "Request Authentication"): the text that is
//! signed, and the `X-Matrix` header in both directions. Pure; keys come from elsewhere.

use ruma::{OwnedServerName, ServerName};
use serde_json::Value;

use crate::protocol::{
    canonical_json,
    signing::{SigningKey, VerifyKey},
};

/// What a signature covers.
#[derive(Clone, Copy, Debug)]
pub struct SignedParts<'a> {
    pub method: &'a str,
    /// The path with the query, as it is sent.
    pub uri: &'a str,
    pub origin: &'a str,
    pub destination: Destination<'a>,
    /// The body as canonical JSON, if there is one.
    pub content: Option<&'a str>,
}

/// Who the request is for.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    Named(&'a str),
    /// As old identity servers write it.
    Is(&'a str),
}

/// The parameters of an `X-Matrix` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSignature {
    pub origin: OwnedServerName,
    /// Older servers leave it out.
    pub destination: Option<String>,
    pub key_id: String,
    pub signature: String,
}

impl SignedParts<'_> {
    /// The header with the signature.
    pub fn sign(&self, key: &SigningKey) -> String {
        let signature = key.sign(self.message().as_bytes());
        let (Destination::Named(destination) | Destination::Is(destination)) = self.destination;
        format!(
            "X-Matrix origin=\"{}\",destination=\"{destination}\",key=\"{}\",sig=\"{signature}\"",
            self.origin,
            key.key_id()
        )
    }

    /// Whether the signature is one of these parts.
    pub fn is_signed_by(&self, key: &VerifyKey, signature: &str) -> bool {
        key.verify(self.message().as_bytes(), signature).is_ok()
    }

    /// The canonical JSON that is signed; its keys are in order.
    fn message(&self) -> String {
        let mut text = String::with_capacity(256 + self.content.map_or(0, str::len));
        text.push('{');
        if let Some(content) = self.content {
            text.push_str("\"content\":");
            text.push_str(content);
            text.push(',');
        }
        let destination = match self.destination {
            Destination::Named(name) => ("destination", name),
            Destination::Is(name) => ("destination_is", name),
        };
        let fields =
            [destination, ("method", self.method), ("origin", self.origin), ("uri", self.uri)];
        for (number, (name, value)) in fields.into_iter().enumerate() {
            text.push_str(if number > 0 { ",\"" } else { "\"" });
            text.push_str(name);
            text.push_str("\":");
            canonical_json::append(&mut text, &Value::from(value));
        }
        text.push('}');
        text
    }
}

impl RequestSignature {
    /// Reads an `Authorization` header; `None` when it is of another scheme, malformed, or lacks a
    /// parameter.
    pub fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("x-matrix") {
            return None;
        }
        let (mut origin, mut destination, mut key_id, mut signature) = (None, None, None, None);
        while !rest.trim_start_matches([' ', '\t', ',']).is_empty() {
            let (name, value, remainder) = take_parameter(rest)?;
            rest = remainder;
            let slot = match name.to_ascii_lowercase().as_str() {
                "origin" => &mut origin,
                "destination" => &mut destination,
                "key" => &mut key_id,
                "sig" | "signature" => &mut signature,
                _ => continue,
            };
            *slot = Some(value);
        }
        let origin = ServerName::parse(origin?).ok()?;
        Some(Self { origin, destination, key_id: key_id?, signature: signature? })
    }
}

/// The next `name=value` or `name="value"`, and what follows it. Colons need no quotes ("the
/// recipient should allow colons").
fn take_parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let (name, rest) = text.split_once('=')?;
    let (name, rest) = (name.trim_end(), rest.trim_start());
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ', '\t']).unwrap_or(rest.len());
        return Some((name, rest[..end].to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((name, value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(destination: Option<&str>) -> Option<RequestSignature> {
        Some(RequestSignature {
            origin: "a.example".try_into().unwrap(),
            destination: destination.map(str::to_owned),
            key_id: "ed25519:k1".to_owned(),
            signature: "Sig/+".to_owned(),
        })
    }

    #[test]
    fn headers_of_old_and_new_servers_are_read() {
        for (header, destination) in [
            (
                r#"X-Matrix origin="a.example",destination="b",key="ed25519:k1",sig="Sig/+""#,
                Some("b"),
            ),
            (r#"x-matrix key=ed25519:k1 , SIG="S\ig/+", Origin=a.example , new="x, y=z""#, None),
            (r#"X-Matrix  origin=a.example,key="ed25519:k1",sig="Sig/+","#, None),
        ] {
            assert_eq!(RequestSignature::parse(header), expect(destination), "{header}");
        }
        for header in [
            "Bearer abc",
            "X-Matrix",
            "X-Matrix origin=a.example,key=ed25519:k1",
            r#"X-Matrix origin="a.example"#,
            r#"X-Matrix origin="a b",key=ed25519:k1,sig=x"#,
        ] {
            assert_eq!(RequestSignature::parse(header), None, "{header}");
        }
    }

    #[test]
    fn what_is_signed_is_verified_and_nothing_else() {
        let key = SigningKey::from_seed("k1", &[7; 32]).unwrap();
        let parts = SignedParts {
            method: "PUT",
            uri: "/_matrix/federation/v1/send/1?a=%22",
            origin: "a.example",
            destination: Destination::Named("b.example"),
            content: Some(r#"{"pdus":[]}"#),
        };
        let header = RequestSignature::parse(&parts.sign(&key)).unwrap();
        assert!(parts.is_signed_by(&key.verify_key(), &header.signature));
        for other in [
            SignedParts { method: "POST", ..parts },
            SignedParts { uri: "/", ..parts },
            SignedParts { destination: Destination::Named("c.example"), ..parts },
            SignedParts { content: None, ..parts },
        ] {
            assert!(!other.is_signed_by(&key.verify_key(), &header.signature), "{other:?}");
        }
    }
}
