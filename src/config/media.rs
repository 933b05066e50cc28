//! `[media]`: pictures and files that people upload.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    problems::Problems,
    units::{self, Size},
};

/// Pictures and files that people upload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MediaConfig {
    /// Where the files lie; `media` in the data directory when `None`.
    #[serde(with = "units::optional")]
    pub storage_dir: Option<PathBuf>,
    /// The largest upload (`m.upload.size`).
    pub upload_size_max: Size,
    /// How much each user may upload in all; any amount when `None`.
    #[serde(with = "units::optional")]
    pub user_quota: Option<Size>,
    /// How many uploads a user may have announced but not begun (`POST /_matrix/media/v1/create`).
    pub pending_uploads_max: usize,
    /// How long an announced upload may take to arrive (`unused_expires_at`).
    #[serde(with = "units::duration")]
    pub pending_upload_lifetime: Duration,
    /// How long a download waits for an upload that was announced, at most (`timeout_ms`).
    #[serde(with = "units::duration")]
    pub download_wait_max: Duration,
    /// Whether small versions of pictures are made; without them a client gets the whole picture.
    pub thumbnails: bool,
    /// The largest picture, in pixels, of which a small version is made.
    pub thumbnail_source_pixels_max: u64,
    /// How long a file of another server is kept that nobody looks at.
    #[serde(with = "units::duration_or_never")]
    pub remote_lifetime: Option<Duration>,
    /// How much room all files of other servers may take; any amount when `None`.
    #[serde(with = "units::optional")]
    pub remote_size_max: Option<Size>,
    /// What the older download paths, which ask for no login, still hand out.
    pub unauthenticated_access: UnauthenticatedAccess,
}

/// What the older download paths, which ask for no login, still hand out
/// (Client-Server API, "Content repository": servers freeze them).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnauthenticatedAccess {
    /// Only what was uploaded while they handed out everything.
    #[default]
    Frozen,
    /// Everything, for old clients and bridges. Whoever guesses an address sees the file, and whoever asks for a
    /// file of another server has this one fetch it.
    Allowed,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            storage_dir: None,
            upload_size_max: Size::mib(50),
            user_quota: None,
            pending_uploads_max: 20,
            pending_upload_lifetime: Duration::from_secs(24 * 60 * 60),
            download_wait_max: Duration::from_secs(60),
            thumbnails: true,
            thumbnail_source_pixels_max: 50_000_000,
            remote_lifetime: Some(Duration::from_secs(180 * 24 * 60 * 60)),
            remote_size_max: None,
            unauthenticated_access: UnauthenticatedAccess::default(),
        }
    }
}

impl MediaConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.upload_size_max.bytes() == 0 {
            problems.add("media.upload_size_max", "must be at least 1 byte");
        }
        if self.pending_upload_lifetime.is_zero() {
            problems.add("media.pending_upload_lifetime", "must be longer than nothing");
        }
    }
}
