//! Which part of a content a request asks for: `If-None-Match`, `Range` and `If-Range` (RFC 9110,
//! sections 13 and 14). Several ranges at once are not served; such a request gets everything, as
//! section 14.2 allows.

use std::ops::Range;

use axum::http::{HeaderMap, header};

/// What to answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    Range(Range<u64>),
    /// 304.
    NotModified,
    /// 416.
    Unsatisfiable,
}

/// Reads the conditions; `etag` with its quotation marks.
pub fn select_part(headers: &HeaderMap, etag: &str, size_bytes: u64) -> Part {
    if is_known_to_client(headers, etag) {
        return Part::NotModified;
    }
    let Some(range) = headers.get(header::RANGE) else { return Part::Whole };
    if headers.get(header::IF_RANGE).is_some_and(|known| known != etag) {
        return Part::Whole;
    }
    let range = range.to_str().ok().and_then(|range| range.strip_prefix("bytes="));
    range.and_then(|range| parse_range(range.trim(), size_bytes)).unwrap_or(Part::Whole)
}

/// Whether `If-None-Match` names the content.
pub fn is_known_to_client(headers: &HeaderMap, etag: &str) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter();
    lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(',')).any(|known| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == etag
    })
}

/// `None` for what is no single range, and so is ignored.
fn parse_range(text: &str, size_bytes: u64) -> Option<Part> {
    let (first, last) = text.split_once('-')?;
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit mean "very far".
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (first, last) {
        ("", last) => size_bytes.saturating_sub(number(last)?)..size_bytes,
        (first, "") => number(first)?..size_bytes,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            first..last.saturating_add(1).min(size_bytes)
        }
    };
    Some(if range.start < range.end { Part::Range(range) } else { Part::Unsatisfiable })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn check(headers: &[(HeaderName, &str)], expect: Part) {
        let map: HeaderMap =
            headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        assert_eq!(select_part(&map, "\"a\"", 10), expect, "{headers:?}");
    }

    #[test]
    fn ranges_are_read() {
        let range = |text| vec![(header::RANGE, text)];
        check(&[], Part::Whole);
        check(&range("bytes=0-3"), Part::Range(0..4));
        check(&range("bytes=4-"), Part::Range(4..10));
        check(&range("bytes=-3"), Part::Range(7..10));
        check(&range("bytes=-30"), Part::Range(0..10));
        check(&range("bytes=9-99999999999999999999999"), Part::Range(9..10));
        check(&range("bytes=10-"), Part::Unsatisfiable);
        check(&range("bytes=-0"), Part::Unsatisfiable);
    }

    #[test]
    fn what_is_no_single_range_is_ignored() {
        for text in ["bytes=", "bytes=a-b", "bytes=3-1", "bytes=0-1,3-4", "lines=1-2", "bytes=-"] {
            check(&[(header::RANGE, text)], Part::Whole);
        }
    }

    #[test]
    fn known_content_is_not_sent_again() {
        for text in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*"] {
            check(&[(header::IF_NONE_MATCH, text)], Part::NotModified);
        }
        check(&[(header::IF_NONE_MATCH, "\"b\"")], Part::Whole);
    }

    #[test]
    fn range_of_another_content_is_not_sent() {
        let range = (header::RANGE, "bytes=1-2");
        check(&[range.clone(), (header::IF_RANGE, "\"a\"")], Part::Range(1..3));
        check(&[range, (header::IF_RANGE, "\"b\"")], Part::Whole);
    }
}
