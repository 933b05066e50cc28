//! `[rate_limits]`: how often each kind of request may be repeated before the answer is
//! 429 `M_LIMIT_EXCEEDED` (Client-Server API, "Rate limiting").

use serde::{Deserialize, Serialize};

use super::problems::Problems;

/// How often each kind of request may be repeated. "Per user" means the logged-in user; whoever is not
/// logged in is counted by address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateLimitsConfig {
    /// Switches all of them.
    pub enabled: bool,
    /// Logins and token refreshes, per address.
    pub login: RateLimit,
    /// Wrong passwords, per account.
    pub login_failures: RateLimit,
    /// New accounts, and the questions before (is this name free, is this token valid), per address.
    pub registration: RateLimit,
    /// Messages, state events and redactions, per user.
    pub messages: RateLimit,
    /// New rooms and upgrades, per user.
    pub room_creation: RateLimit,
    /// Joins and knocks, per user.
    pub joins: RateLimit,
    /// Invites, per user.
    pub invites: RateLimit,
    /// Invites that one user gets from all others together.
    pub invites_received: RateLimit,
    /// Typing notices, receipts and presence, per user.
    pub ephemeral: RateLimit,
    /// Changes of profile, account data, tags, devices and the like, per user.
    pub changes: RateLimit,
    /// Messages from device to device, per user.
    pub to_device: RateLimit,
    /// Expensive reads (search in the directory and of users, summaries), per user; what other servers
    /// are asked for those who are not logged in, per address.
    pub searches: RateLimit,
    /// Uploads, per user.
    pub media_uploads: RateLimit,
    /// Downloads and thumbnails, per user or address.
    pub media_downloads: RateLimit,
    /// Reports of rooms, events and users, per user.
    pub reports: RateLimit,
    /// Mails to confirm an address, per client's address and per mail address.
    pub mails: RateLimit,
    /// Previews of web pages, per user.
    pub url_previews: RateLimit,
}

/// A bucket of `burst` tokens that refills with `per_second` tokens a second; each request takes one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Switches this one.
    pub enabled: bool,
    /// Requests a second in the long run.
    pub per_second: f64,
    /// Requests at once.
    pub burst: u32,
}

impl RateLimit {
    const fn new(per_second: f64, burst: u32) -> Self {
        Self { enabled: true, per_second, burst }
    }
}

impl Default for RateLimitsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            login: RateLimit::new(0.5, 20),
            login_failures: RateLimit::new(0.1, 10),
            registration: RateLimit::new(0.2, 10),
            messages: RateLimit::new(10.0, 100),
            room_creation: RateLimit::new(0.2, 20),
            joins: RateLimit::new(1.0, 50),
            invites: RateLimit::new(1.0, 200),
            invites_received: RateLimit::new(0.5, 100),
            ephemeral: RateLimit::new(20.0, 200),
            changes: RateLimit::new(5.0, 100),
            to_device: RateLimit::new(50.0, 500),
            searches: RateLimit::new(2.0, 30),
            media_uploads: RateLimit::new(2.0, 50),
            media_downloads: RateLimit::new(50.0, 500),
            reports: RateLimit::new(0.1, 10),
            mails: RateLimit::new(0.01, 10),
            url_previews: RateLimit::new(1.0, 30),
        }
    }
}

impl RateLimitsConfig {
    /// Each limit with its name in the configuration.
    #[must_use]
    pub fn each(&self) -> [(&'static str, RateLimit); 17] {
        [
            ("login", self.login),
            ("login_failures", self.login_failures),
            ("registration", self.registration),
            ("messages", self.messages),
            ("room_creation", self.room_creation),
            ("joins", self.joins),
            ("invites", self.invites),
            ("invites_received", self.invites_received),
            ("ephemeral", self.ephemeral),
            ("changes", self.changes),
            ("to_device", self.to_device),
            ("searches", self.searches),
            ("media_uploads", self.media_uploads),
            ("media_downloads", self.media_downloads),
            ("reports", self.reports),
            ("mails", self.mails),
            ("url_previews", self.url_previews),
        ]
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        for (name, limit) in self.each() {
            if !(limit.per_second.is_finite() && limit.per_second > 0.0) {
                problems.add(
                    &format!("rate_limits.{name}.per_second"),
                    "must be above 0; to switch the limit off, set its `enabled = false`",
                );
            }
            if limit.burst == 0 {
                problems.add(&format!("rate_limits.{name}.burst"), "must be at least 1");
            }
        }
    }
}
