//! Where a content is: `mxc://{server-name}/{media-id}` (Client-Server API, "Matrix Content
//! (`mxc://`) URIs").

use ruma::{OwnedServerName, ServerName};

/// The longest media ID that is looked up; nobody makes longer ones.
const MEDIA_ID_BYTES_MAX: usize = 255;

/// An `mxc://` address whose parts are safe to use ("Security considerations").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaAddress {
    pub server_name: OwnedServerName,
    pub media_id: String,
}

/// The parts make no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("the server name is not valid")]
    ServerName,
    #[error("a media ID has letters, digits, \"_\" and \"-\" only")]
    MediaId,
}

impl MediaAddress {
    /// Checks the two parts of an address.
    pub fn parse(server_name: &str, media_id: &str) -> Result<Self, AddressError> {
        let server_name = ServerName::parse(server_name).map_err(|_| AddressError::ServerName)?;
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let is_valid = (1..=MEDIA_ID_BYTES_MAX).contains(&media_id.len());
        if !is_valid || !media_id.bytes().all(is_allowed) {
            return Err(AddressError::MediaId);
        }
        Ok(Self { server_name, media_id: media_id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(server_name: &str, media_id: &str, expect: Result<(), AddressError>) {
        let result = MediaAddress::parse(server_name, media_id).map(drop);
        assert_eq!(result, expect, "{server_name} {media_id}");
    }

    #[test]
    fn addresses_lead_nowhere_else() {
        check("example.org", "Az09_-", Ok(()));
        check("[::1]:8448", "a", Ok(()));
        check("example.org/..", "a", Err(AddressError::ServerName));
        check("", "a", Err(AddressError::ServerName));
        check("example.org", "", Err(AddressError::MediaId));
        check("example.org", "../../etc/passwd", Err(AddressError::MediaId));
        check("example.org", "a.b", Err(AddressError::MediaId));
        check("example.org", "ä", Err(AddressError::MediaId));
        check("example.org", &"a".repeat(256), Err(AddressError::MediaId));
    }
}
