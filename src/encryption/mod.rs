//! End-to-end encryption as far as a server has a part in it (client-server API, "End-to-End
//! Encryption", "Send-to-Device messaging"): keys of devices, cross-signing, whose device lists
//! changed, messages to devices, backups of room keys. The server reads no secret and decides whom to
//! trust for nobody. Not for HTTP, nor for conversations with other servers (`federation`).

mod claim;
mod cross_signing;
mod dehydrated;
mod device_lists;
mod device_news;
mod device_watch;
mod devices_in_use;
mod identity;
mod inbound;
mod key_backup;
mod one_time_keys;
mod outbound;
mod query;
mod remote;
mod remote_lists;
mod sent_requests;
mod signatures;
mod to_device;
mod upload;

use std::{sync::Arc, time::Duration};

pub use claim::{ClaimRequest, ClaimedKey, ClaimedKeys};
pub use cross_signing::{CrossSigningError, CrossSigningUpload};
pub use dehydrated::{DehydratedDevice, DehydratedError, NewDehydratedDevice};
pub use device_lists::DeviceListChanges;
pub use device_news::{DeviceMessage, DeviceNews};
pub use devices_in_use::DeviceName;
pub use identity::IdentityError;
pub use inbound::EduError;
pub use key_backup::{Backup, BackupError, BackupState, RoomKey};
pub use outbound::{DeviceUpdate, DirectMessage};
pub use query::{KeysQuery, QueriedKeys, Viewer};
pub use remote::{RemoteError, RemoteKeys};
pub use signatures::SignatureFailure;
pub use to_device::{
    Messages, SendRequest, SendToDeviceError, TO_DEVICE_PAGE_MAX, WaitingMessages,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
pub use upload::{KeyCounts, KeysUpload, UploadKeysError};

use self::{
    device_lists::DeviceLists, device_news::NewsPlace, devices_in_use::DevicesInUse,
    remote_lists::RemoteLists, sent_requests::SentRequests,
};
use crate::{
    accounts::Accounts,
    hook::Hook,
    rooms::Rooms,
    storage::{self, StorageError},
};

/// How often what is no longer needed is deleted.
const CLEANING_PAUSE: Duration = Duration::from_secs(60 * 60);
/// Messages that may wait for one device, or for one other server; beyond, the oldest ones go.
const WAITING_MESSAGES_MAX: usize = 100_000;
/// How long messages of other servers are remembered, to recognise them when they come again.
const RECEIVED_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// Keys and messages of devices. Clones share it.
#[derive(Clone)]
pub struct Encryption(Arc<Parts>);

struct Parts {
    rooms: Rooms,
    devices: DevicesInUse,
    lists: DeviceLists,
    requests: SentRequests,
    remote: Hook<dyn RemoteKeys>,
    remote_lists: RemoteLists,
    news: NewsPlace,
}

impl Encryption {
    /// `memory_bytes` bounds what is kept of devices in use. Has `accounts` tell of devices that go.
    pub fn new(rooms: Rooms, accounts: &Accounts, memory_bytes: u64) -> Self {
        let (database, writer) = (rooms.database().clone(), rooms.writer().clone());
        let news = NewsPlace::default();
        let encryption = Self(Arc::new(Parts {
            devices: DevicesInUse::new(database, writer, memory_bytes / 10 * 9),
            lists: DeviceLists::new(rooms.clone(), memory_bytes / 20, news.clone()),
            requests: SentRequests::new(memory_bytes / 20),
            remote: Hook::default(),
            remote_lists: RemoteLists::default(),
            news,
            rooms,
        }));
        accounts.set_device_watcher(Arc::new(encryption.clone()));
        encryption
    }

    /// Registers who asks other servers; once, at start. Without, they count as unreachable.
    pub fn set_remote_keys(&self, remote: Arc<dyn RemoteKeys>) {
        if !self.0.remote.set(remote) {
            tracing::error!("a second way to ask other servers for keys was not registered");
        }
    }

    /// Lets go of what was registered from above, when the server ends.
    pub fn release_hooks(&self) {
        self.0.remote.release();
        self.0.news.release();
    }

    /// Starts what runs in the background until `shutdown`.
    pub fn spawn_tasks(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let (cleaning, until) = (self.clone(), shutdown.clone());
        tasks.spawn(async move { until.run_until_cancelled(cleaning.run_cleaning()).await });
        let (resyncs, until) = (self.clone(), shutdown.clone());
        tasks.spawn(async move { until.run_until_cancelled(resyncs.run_resyncs()).await });
    }

    /// Whether a user has an account here, going by the name.
    fn is_local(&self, user: &ruma::UserId) -> bool {
        user.server_name() == self.0.rooms.server_name()
    }

    async fn run_cleaning(self) {
        let mut pause = tokio::time::interval(CLEANING_PAUSE);
        loop {
            pause.tick().await;
            if let Err(error) = self.clean().await {
                tracing::warn!(%error, "old messages to devices were not deleted");
            }
        }
    }

    async fn clean(&self) -> Result<(), StorageError> {
        let before_ts = self.0.rooms.clock().now_ms().saturating_sub(RECEIVED_KEPT_MS);
        let gone = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                storage::to_device::delete_received(tx, before_ts).await?;
                let gone = storage::to_device::delete_overflow(tx, WAITING_MESSAGES_MAX).await?;
                storage::to_device::delete_outbox_overflow(tx, WAITING_MESSAGES_MAX)
                    .await
                    .map(|more| gone + more)
            })
        });
        let gone: u64 = gone.await?;
        if gone > 0 {
            tracing::warn!(
                messages = gone,
                "messages for devices or servers that never come were deleted"
            );
        }
        Ok(())
    }
}
