//! What devices bring along and leave behind when they come, go or change their name: `accounts` tells
//! of it within the transaction that does it.

use futures_util::future::BoxFuture;
use ruma::UserId;

use super::{Encryption, devices_in_use::DeviceName};
use crate::{
    accounts::manage::DeviceWatcher,
    storage::{
        self, StorageError, WriteTransaction, cross_signing, dehydrated_devices, device_keys,
        device_lists, to_device,
    },
};

impl DeviceWatcher for Encryption {
    fn device_created(&self, tx: &mut WriteTransaction<'_>, user_id: &str, device_id: &str) {
        let (encryption, name) = (self.clone(), DeviceName::new(user_id, device_id));
        tx.after_commit(move || encryption.0.devices.note_created(name));
    }

    fn devices_deleted<'a>(
        &'a self,
        tx: &'a mut WriteTransaction<'_>,
        user_id: &'a UserId,
        device_ids: &'a [String],
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(self.forget_devices(tx, user_id, device_ids))
    }

    fn device_renamed<'a>(
        &'a self,
        tx: &'a mut WriteTransaction<'_>,
        user_id: &'a UserId,
        device_id: &'a str,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            let keys = device_keys::find_keys_in(tx, (user_id.as_str(), device_id)).await?;
            match keys {
                Some(_) => self.announce_change(tx, user_id, device_id).await,
                // Nobody here sees it, but other servers may have heard of it.
                None => {
                    let told = device_lists::note_device(tx, user_id.as_str(), device_id);
                    told.await.map(drop)
                }
            }
        })
    }

    /// Nobody can ever read the backups any more.
    fn account_deactivated<'a>(
        &'a self,
        tx: &'a mut WriteTransaction<'_>,
        user_id: &'a UserId,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(storage::key_backup::delete_of_user(tx, user_id.as_str()))
    }
}

impl Encryption {
    /// Deletes all that belongs to devices; others learn of those that had keys, and other servers of all that
    /// they were told of.
    pub(super) async fn forget_devices(
        &self,
        tx: &mut WriteTransaction<'_>,
        user: &UserId,
        device_ids: &[String],
    ) -> Result<(), StorageError> {
        for device in device_ids {
            let pair = (user.as_str(), device.as_str());
            let had_keys = device_keys::delete_of_device(tx, pair).await?;
            to_device::delete_of_device(tx, pair).await?;
            cross_signing::delete_signatures_on(tx, user.as_str(), device).await?;
            dehydrated_devices::delete(tx, user.as_str(), device).await?;
            if had_keys {
                self.announce_change(tx, user, device).await?;
            } else if device_lists::is_told(tx, pair).await? {
                device_lists::note_device(tx, user.as_str(), device).await?;
            }
        }
        let names: Vec<_> = device_ids.iter().map(|device| DeviceName::new(user, device)).collect();
        let encryption = self.clone();
        tx.after_commit(move || {
            for name in names {
                encryption.0.devices.forget(&name);
                encryption.0.requests.forget(&name);
            }
        });
        Ok(())
    }

    /// Notes a change of a device and has everybody told.
    pub(super) async fn announce_change(
        &self,
        tx: &mut WriteTransaction<'_>,
        user: &UserId,
        device: &str,
    ) -> Result<(), StorageError> {
        let audience = self.0.lists.audience(user).await?;
        let position = device_lists::note_change(tx, user.as_str(), device).await?;
        self.0.lists.announce_in(tx, user, position, audience);
        Ok(())
    }
}
