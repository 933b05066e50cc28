//! `[url_previews]`: what clients show of the web pages that messages link to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    problems::Problems,
    units::{self, Size},
};

/// What clients show of the web pages that messages link to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UrlPreviewsConfig {
    /// Whether this server looks at web pages at all.
    pub enabled: bool,
    /// Hosts that are not looked at, nor those below them.
    pub denied_hosts: Vec<String>,
    /// How long a preview is kept before the page is looked at again.
    #[serde(with = "units::duration")]
    pub lifetime: Duration,
    /// How much of a page is read, from its beginning.
    pub page_size_max: Size,
    /// The largest picture that is taken over.
    pub image_size_max: Size,
}

impl Default for UrlPreviewsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            denied_hosts: Vec::new(),
            lifetime: Duration::from_secs(6 * 60 * 60),
            page_size_max: Size::kib(512),
            image_size_max: Size::mib(5),
        }
    }
}

impl UrlPreviewsConfig {
    /// Whether pages of this host may be looked at.
    #[must_use]
    pub fn allows_host(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        !self.denied_hosts.iter().any(|denied| {
            let denied = denied.trim_start_matches("*.").to_ascii_lowercase();
            host.strip_suffix(&denied).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.denied_hosts.iter().any(|host| host.is_empty() || host.contains(['/', ':'])) {
            problems.add("url_previews.denied_hosts", "must be host names such as \"example.org\"");
        }
        if self.page_size_max.bytes() == 0 {
            problems.add("url_previews.page_size_max", "must be at least 1 byte");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_host_stands_for_those_below_it() {
        let denied_hosts = vec!["Example.org".to_owned(), "*.corp.test".to_owned()];
        let config = UrlPreviewsConfig { denied_hosts, ..UrlPreviewsConfig::default() };
        for host in ["example.org", "a.b.example.org", "EXAMPLE.ORG.", "x.corp.test"] {
            assert!(!config.allows_host(host), "{host}");
        }
        for host in ["badexample.org", "example.org.evil.test", "org"] {
            assert!(config.allows_host(host), "{host}");
        }
    }
}
