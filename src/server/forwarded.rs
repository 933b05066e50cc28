//! Who is behind a reverse proxy: `X-Forwarded-For`, believed only when a trusted proxy sends it.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use crate::config::TrustedProxy;

pub(super) const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address: the last one on the way that is not a trusted proxy. `peer` is `None` for a
/// Unix socket, and so is the result when no proxy names an address there.
pub(super) fn find_client_address(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    trusted: &[TrustedProxy],
) -> Option<IpAddr> {
    let is_trusted = |address| trusted.iter().any(|proxy| proxy.covers(address));
    let mut address = peer;
    if trusted.is_empty() || !is_trusted(address) {
        return address;
    }
    // Each proxy appends the address it saw, so that the list is read from its end, and whatever stands
    // before the first untrusted address is only a claim.
    let values: Vec<&str> =
        headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    for hop in values.iter().rev().flat_map(|value| value.rsplit(',')) {
        let Some(hop) = parse_hop(hop.trim()) else { break };
        address = Some(hop);
        if !is_trusted(address) {
            break;
        }
    }
    address
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1` or `[2001:db8::1]:4711`.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = unbracketed.unwrap_or(text).parse().ok();
    address.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(peer: &str, forwarded: &[&str], trusted: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(X_FORWARDED_FOR, value.parse().unwrap());
        }
        let trusted: Vec<_> = trusted.iter().map(|proxy| proxy.parse().unwrap()).collect();
        find_client_address(peer.parse().ok(), &headers, &trusted).map(|found| found.to_string())
    }

    #[test]
    fn header_of_a_stranger_is_not_believed() {
        assert_eq!(find("192.0.2.9", &["203.0.113.1"], &[]).unwrap(), "192.0.2.9");
        assert_eq!(find("192.0.2.9", &["203.0.113.1"], &["127.0.0.1"]).unwrap(), "192.0.2.9");
    }

    #[test]
    fn header_of_a_trusted_proxy_is_believed_up_to_the_first_stranger() {
        let trusted = ["127.0.0.1", "10.0.0.0/8"];
        for (forwarded, expected) in [
            (vec!["203.0.113.1"], "203.0.113.1"),
            (vec!["6.6.6.6, 203.0.113.1, 10.0.0.7"], "203.0.113.1"),
            (vec!["6.6.6.6", "203.0.113.1"], "203.0.113.1"),
            (vec!["203.0.113.1:4711"], "203.0.113.1"),
            (vec!["[2001:db8::1]:4711"], "2001:db8::1"),
            (vec!["2001:db8::1"], "2001:db8::1"),
            (vec!["10.0.0.7"], "10.0.0.7"),
            (vec![], "127.0.0.1"),
            (vec!["6.6.6.6, nonsense"], "127.0.0.1"),
        ] {
            assert_eq!(find("127.0.0.1", &forwarded, &trusted).unwrap(), expected, "{forwarded:?}");
        }
    }

    #[test]
    fn unix_socket_has_an_address_only_through_a_trusted_proxy() {
        assert_eq!(find("unix", &["203.0.113.1"], &["unix"]).unwrap(), "203.0.113.1");
        assert_eq!(find("unix", &["203.0.113.1"], &["127.0.0.1"]), None);
    }
}
