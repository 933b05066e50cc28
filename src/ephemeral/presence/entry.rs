//! What is known of one user, and what time does to it. Wakes nobody.

use super::{PresenceSettings, PresenceState, PresenceStatus};

/// Users of other servers of whom nothing was heard for this long count as offline.
const REMOTE_SILENCE_MS_MAX: u64 = 30 * 60 * 1000;
/// For this long after an activity a user counts as currently active, and further activities
/// are told to nobody.
const CURRENTLY_ACTIVE_MS: u64 = 60_000;

/// One user.
pub(super) struct Entry {
    pub state: PresenceState,
    pub status_message: Option<String>,
    pub last_active_ms: Option<u64>,
    pub is_currently_active: bool,
    /// Syncs that wait now, and when the latest one ended.
    pub syncs: u32,
    pub last_sync_ms: u64,
    /// Whether another server says so; then `last_sync_ms` is when it did.
    pub is_remote: bool,
    pub epoch: u64,
    pub deadline_ms: Option<u64>,
}

impl Entry {
    pub fn offline(now_ms: u64) -> Self {
        Self {
            state: PresenceState::Offline,
            status_message: None,
            last_active_ms: None,
            is_currently_active: false,
            syncs: 0,
            last_sync_ms: now_ms,
            is_remote: false,
            epoch: 0,
            deadline_ms: None,
        }
    }

    /// What makes a difference to others.
    pub fn seen(&self) -> (PresenceState, Option<String>, bool) {
        (self.state, self.status_message.clone(), self.is_currently_active)
    }

    pub fn active_until_ms(&self, after_ms: u64) -> u64 {
        self.last_active_ms.unwrap_or(0).saturating_add(after_ms)
    }

    pub fn apply_time(&mut self, settings: &PresenceSettings, now_ms: u64) {
        // Its own server decides, as long as it says anything.
        if self.is_remote {
            if now_ms >= self.last_sync_ms + REMOTE_SILENCE_MS_MAX {
                self.state = PresenceState::Offline;
                self.is_currently_active = false;
            }
            return;
        }
        if self.syncs == 0 && now_ms >= self.last_sync_ms + settings.offline_after_ms {
            self.state = PresenceState::Offline;
        }
        if self.state == PresenceState::Online
            && now_ms >= self.active_until_ms(settings.unavailable_after_ms)
        {
            self.state = PresenceState::Unavailable;
        }
        self.is_currently_active = self.state == PresenceState::Online
            && now_ms < self.active_until_ms(CURRENTLY_ACTIVE_MS);
    }

    /// When time alone will change something.
    pub fn next_deadline_ms(&self, settings: &PresenceSettings, now_ms: u64) -> Option<u64> {
        if self.state == PresenceState::Offline {
            return None;
        }
        if self.is_remote {
            return Some(self.last_sync_ms + REMOTE_SILENCE_MS_MAX);
        }
        let offline = self.last_sync_ms + settings.offline_after_ms;
        let is_online = self.state == PresenceState::Online;
        let candidates = [
            (self.syncs == 0).then_some(offline),
            is_online.then(|| self.active_until_ms(settings.unavailable_after_ms)),
            self.is_currently_active.then(|| self.active_until_ms(CURRENTLY_ACTIVE_MS)),
        ];
        candidates.into_iter().flatten().filter(|at_ms| *at_ms > now_ms).min()
    }

    pub fn status(&self, now_ms: u64) -> PresenceStatus {
        PresenceStatus {
            state: self.state,
            status_message: self.status_message.clone(),
            last_active_ago_ms: self.last_active_ms.map(|at_ms| now_ms.saturating_sub(at_ms)),
            is_currently_active: self.is_currently_active,
        }
    }
}
