//! What devices without a sync of their own are told, for `appservices`, which brings it to them:
//! messages for them, what is left of their keys, whose device lists changed (MSC3202, MSC4203). Not
//! for whom it concerns.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, UserId};

use super::{Encryption, KeyCounts, devices_in_use::DeviceName};
use crate::{
    rooms::Room,
    storage::{self, StorageError, WriteTx, device_lists, to_device},
};

/// For messages that were sent together, whose number the size of their request bounds.
const NO_LIMIT: usize = i64::MAX as usize;

/// What has just been published.
#[derive(Clone, Copy)]
pub enum DeviceNews<'a> {
    /// Messages wait for devices of these users.
    Messages(&'a [OwnedUserId]),
    /// One-time or fallback keys of these devices were uploaded or claimed.
    KeyCounts(&'a [DeviceName]),
    /// The device list or the cross-signing keys of a user, here or elsewhere, changed.
    List(&'a UserId),
}

/// Called with all news, outside of all locks. It must not block.
pub type DeviceNewsHook = dyn Fn(DeviceNews<'_>) + Send + Sync;

/// A message with the device for which it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceMessage {
    pub device: DeviceName,
    pub position: i64,
    /// The whole event as JSON, as a sync carries it.
    pub event: String,
}

impl Encryption {
    /// Registers who hears of news; once, at start.
    pub fn set_device_news_hook(&self, hook: std::sync::Arc<DeviceNewsHook>) {
        if !self.0.news.set(hook) {
            tracing::error!("a second hook for news of devices was not registered");
        }
    }

    /// Messages that wait for devices of these users above `since` up to `upto`, in the order of the
    /// stream, about `limit` of them; and up to where these are all.
    pub async fn list_messages_of_users(
        &self,
        users: &BTreeSet<OwnedUserId>,
        (since, upto): (i64, i64),
        limit: usize,
    ) -> Result<(Vec<DeviceMessage>, i64), StorageError> {
        let database = self.0.rooms.database();
        let names: Vec<&str> = users.iter().map(|user| user.as_str()).collect();
        // One more than wanted, to know whether there are more.
        let mut rows = to_device::list_of_users(database, &names, (since, upto), limit + 1).await?;
        let mut reached = upto;
        if let Some(next) = rows.get(limit).map(|row| row.position) {
            // Several messages can have one position: it is taken as a whole, or not yet.
            let is_one = rows.first().is_some_and(|first| first.position == next);
            reached = if is_one { next } else { next - 1 };
            if is_one {
                let whole = (next - 1, next);
                rows = to_device::list_of_users(database, &names, whole, NO_LIMIT).await?;
            } else {
                rows.retain(|row| row.position < next);
            }
        }
        let read = |row: to_device::WaitingRow| DeviceMessage {
            device: DeviceName::new(row.user_id, row.device_id),
            position: row.position,
            event: row.message,
        };
        Ok((rows.into_iter().map(read).collect(), reached))
    }

    /// Users for whose devices messages wait above a position.
    pub async fn list_users_with_messages(
        &self,
        after: i64,
    ) -> Result<Vec<OwnedUserId>, StorageError> {
        let users = to_device::list_waiting_users(self.0.rooms.database(), after).await?;
        Ok(users.iter().filter_map(|user| UserId::parse(user).ok()).collect())
    }

    /// Deletes a device's messages up to a position with a write that passes them on.
    pub fn push_passed_on(&self, tx: &mut WriteTx, device: &DeviceName, upto: i64) {
        to_device::push_delete(tx, device.pair(), upto);
        let (encryption, device) = (self.clone(), device.clone());
        tx.after_commit(move |_| encryption.0.devices.note_deleted(&device, upto));
    }

    /// How many keys devices have left, of those that there are.
    pub async fn count_keys_of(
        &self,
        devices: &[DeviceName],
    ) -> Result<Vec<(DeviceName, KeyCounts)>, StorageError> {
        let users: BTreeSet<&str> = devices.iter().map(|device| &*device.user).collect();
        let users: Vec<&str> = users.into_iter().collect();
        let existing = storage::device_keys::list_devices(self.0.rooms.database(), &users).await?;
        let existing: BTreeSet<DeviceName> =
            existing.into_iter().map(|(user, device)| DeviceName::new(user, device)).collect();
        let mut counts = Vec::new();
        for device in devices.iter().filter(|device| existing.contains(device)) {
            let count = self.0.devices.look(device, |device| device.counts.clone()).await?;
            counts.push((device.clone(), count));
        }
        Ok(counts)
    }

    /// Devices with identity keys of the accounts that a service has made.
    pub async fn list_devices_of_service(
        &self,
        service: &str,
    ) -> Result<Vec<DeviceName>, StorageError> {
        let database = self.0.rooms.database();
        let pairs = storage::device_keys::list_devices_of_service(database, service).await?;
        Ok(pairs.into_iter().map(|(user, device)| DeviceName::new(user, device)).collect())
    }

    /// Users whose device lists changed above `since` up to `upto`, at most `limit`; and up to where
    /// these are all.
    pub async fn list_changed_users(
        &self,
        (since, upto): (i64, i64),
        limit: usize,
    ) -> Result<(Vec<OwnedUserId>, i64), StorageError> {
        if let Some(recent) = self.0.lists.list_recent((since, upto))
            && recent.len() <= limit
        {
            return Ok((recent.into_iter().collect(), upto));
        }
        let database = self.0.rooms.database();
        let rows = device_lists::list_changed(database, (since, upto), limit).await?;
        // No two users have one position.
        let last = rows.last().map(|(_, position)| *position);
        let reached = last.filter(|_| rows.len() == limit).unwrap_or(upto);
        let users = rows.iter().filter_map(|(user, _)| UserId::parse(user).ok());
        Ok((users.collect(), reached))
    }

    /// The members of a room, by name.
    pub async fn list_room_members(&self, room: &Room) -> Result<Vec<OwnedUserId>, StorageError> {
        let members = self.list_members(room).await?;
        Ok(members.into_iter().filter_map(|member| UserId::parse(member).ok()).collect())
    }

    pub(super) fn tell(&self, news: DeviceNews<'_>) {
        self.0.news.tell(news);
    }
}

/// Where news go. Clones share it.
#[derive(Clone, Default)]
pub(super) struct NewsPlace(std::sync::Arc<crate::hook::Hook<DeviceNewsHook>>);

impl NewsPlace {
    fn set(&self, hook: std::sync::Arc<DeviceNewsHook>) -> bool {
        self.0.set(hook)
    }

    pub fn release(&self) {
        self.0.release();
    }

    pub fn tell(&self, news: DeviceNews<'_>) {
        if let Some(hook) = self.0.get() {
            hook(news);
        }
    }

    /// Has the counts of devices told when a write is published.
    pub fn announce_counts(&self, tx: &mut WriteTx, devices: &[DeviceName]) {
        let (place, devices) = (self.clone(), devices.to_vec());
        tx.after_publish(move |_| place.tell(DeviceNews::KeyCounts(&devices)));
    }
}
