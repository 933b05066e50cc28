//! Whether a browser may show a content, and the name under which it saves it (Client-Server API,
//! "Serving inline content"; RFC 6266).

use axum::http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The types that are shown, in the order of the specification.
const INLINE_TYPES: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// `attr-char` of RFC 8187, section 3.2.1.
const OUTSIDE_ATTRIBUTES: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// The header `Content-Disposition`.
pub fn write_disposition(content_type: &str, filename: Option<&str>) -> HeaderValue {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let is_inline = INLINE_TYPES.iter().any(|known| known.eq_ignore_ascii_case(essence));
    let kind = if is_inline { "inline" } else { "attachment" };
    let text = match filename {
        None => kind.to_owned(),
        Some(name) if is_quotable(name) => {
            let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
            format!("{kind}; filename=\"{escaped}\"")
        }
        Some(name) => {
            let encoded = utf8_percent_encode(name, OUTSIDE_ATTRIBUTES);
            format!("{kind}; filename*=utf-8''{encoded}")
        }
    };
    HeaderValue::from_str(&text).expect("only visible ASCII is left")
}

fn is_quotable(name: &str) -> bool {
    name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content_type: &str, filename: Option<&str>, expect: &str) {
        assert_eq!(write_disposition(content_type, filename), expect, "{content_type}");
    }

    #[test]
    fn only_safe_types_are_shown() {
        check("image/png", None, "inline");
        check("Text/Plain; charset=utf-8", None, "inline");
        check("text/html", None, "attachment");
        check("image/svg+xml", None, "attachment");
        check("application/pdf", None, "attachment");
        check("image/png2", None, "attachment");
        check("", None, "attachment");
    }

    #[test]
    fn names_arrive_as_they_are() {
        check("image/png", Some("a b;c.png"), "inline; filename=\"a b;c.png\"");
        check("text/html", Some("a\"\\b"), "attachment; filename=\"a\\\"\\\\b\"");
        check("image/png", Some("zoë 🐔"), "inline; filename*=utf-8''zo%C3%AB%20%F0%9F%90%94");
        check("image/png", Some("a\r\nb: c"), "inline; filename*=utf-8''a%0D%0Ab%3A%20c");
    }
}
