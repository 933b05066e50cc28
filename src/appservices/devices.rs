//! What encryption needs, for services that ask for it (`org.matrix.msc3202` in the registration):
//! messages to devices of their users, what is left of these devices' keys, and whose device lists
//! changed (MSC3202, MSC4203). Everything but the counts lies in the stream, behind a place that is
//! kept with the service's own; here is noted when to look, and where.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};

use super::{Appservices, interest::Interests, registration::Service, tail::Feed};
use crate::{
    encryption::{DeviceMessage, DeviceName, DeviceNews, KeyCounts},
    protocol::membership::Membership,
    rooms::{MEMBER, Room, StoredEvent, write_json_string},
    storage::{StorageError, WriteTx, appservices::StreamEvent},
};

/// Messages to devices in one transaction, and devices whose keys are counted there.
const MESSAGES_MAX: usize = 100;
const COUNTS_MAX: usize = 500;
/// Users with changed device lists that are looked at for one transaction.
const CHANGED_USERS_MAX: usize = 1_000;
/// Members of a room who are named when it comes to concern a service, or no longer does. Those of a
/// larger one are found when their keys are needed.
const ROOM_MEMBERS_MAX: usize = 5_000;
/// Devices whose counts changed, noted for one service; of further ones it learns with the next
/// message for them.
const COUNTED_DEVICES_MAX: usize = 10_000;

/// What is new since the last transaction of a service.
#[derive(Default)]
pub struct DeviceChanges {
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    /// Users of the service for whom messages wait. Not more than it has users.
    inboxes: BTreeSet<OwnedUserId>,
    counted: BTreeSet<DeviceName>,
}

/// Services that want such news, with what is noted for them.
#[derive(Default)]
pub struct DeviceListeners(Mutex<HashMap<String, (Arc<Service>, Arc<DeviceChanges>)>>);

/// For one transaction.
#[derive(Default)]
pub struct DeviceTidings {
    messages: Vec<DeviceMessage>,
    changed: BTreeSet<OwnedUserId>,
    left: BTreeSet<OwnedUserId>,
    counts: Vec<(DeviceName, KeyCounts)>,
}

/// One service's view of devices.
pub(super) struct ServiceDevices {
    appservices: Appservices,
    service: Arc<Service>,
    changes: Arc<DeviceChanges>,
    feed: Arc<Feed>,
}

impl DeviceListeners {
    /// Notes news for whom they concern, and has these look.
    pub fn note(&self, news: DeviceNews<'_>, find_feed: impl Fn(&str) -> Option<Arc<Feed>>) {
        for (id, (service, changes)) in self.0.lock().iter() {
            if let (true, Some(feed)) = (changes.note(news, service), find_feed(id)) {
                feed.bell.notify_one();
            }
        }
    }

    pub fn remove(&self, id: &str) {
        self.0.lock().remove(id);
    }

    fn add(&self, service: &Arc<Service>) -> Arc<DeviceChanges> {
        let changes = Arc::new(DeviceChanges::default());
        let entry = (Arc::clone(service), Arc::clone(&changes));
        self.0.lock().insert(service.id.clone(), entry);
        changes
    }
}

impl DeviceChanges {
    /// True when the service has to look.
    fn note(&self, news: DeviceNews<'_>, service: &Service) -> bool {
        match news {
            DeviceNews::Messages(users) => self.note_inboxes(users, service),
            DeviceNews::KeyCounts(devices) => self.note_counts(devices, service),
            DeviceNews::List(_) => true,
        }
    }

    fn note_inboxes(&self, users: &[OwnedUserId], service: &Service) -> bool {
        let mut covered = users.iter().filter(|user| service.covers_user(user)).peekable();
        let is_any = covered.peek().is_some();
        if is_any {
            self.noted.lock().inboxes.extend(covered.cloned());
        }
        is_any
    }

    fn note_counts(&self, devices: &[DeviceName], service: &Service) -> bool {
        let covers = |device: &&DeviceName| {
            <&UserId>::try_from(&*device.user).is_ok_and(|user| service.covers_user(user))
        };
        let mut is_any = false;
        for device in devices.iter().filter(covers) {
            let mut noted = self.noted.lock();
            if noted.counted.len() < COUNTED_DEVICES_MAX {
                is_any |= noted.counted.insert(device.clone());
            }
        }
        is_any
    }
}

impl Appservices {
    /// Begins to note what is new for a service, behind a place in the stream.
    pub(super) async fn open_devices(
        &self,
        (service, feed): (&Arc<Service>, &Arc<Feed>),
        position: i64,
    ) -> Result<ServiceDevices, StorageError> {
        // Noted first and read then, so that nothing falls between.
        let changes = self.0.device_listeners.add(service);
        let waiting = self.0.encryption.list_users_with_messages(position).await?;
        changes.note_inboxes(&waiting, service);
        let devices = self.0.encryption.list_devices_of_service(&service.id).await?;
        changes.note_counts(&devices, service);
        let (appservices, service, feed) = (self.clone(), service.clone(), feed.clone());
        Ok(ServiceDevices { appservices, service, changes, feed })
    }
}

impl ServiceDevices {
    /// What is new for a transaction with these events, behind a place in the stream; with the place
    /// up to which this is all. What stands there only for this service to read is deleted by `tx`.
    pub async fn take(
        &mut self,
        interests: &Interests,
        events: &[StreamEvent],
        since: i64,
        tx: &mut WriteTx,
    ) -> Result<(DeviceTidings, i64), StorageError> {
        let mut tidings = DeviceTidings::default();
        let inboxes = std::mem::take(&mut self.changes.noted.lock().inboxes);
        // Read after the inboxes were taken: whoever is noted from now on is looked at next time.
        let end = self.appservices.0.rooms.writer().position();
        let encryption = &self.appservices.0.encryption;
        let range = (since, end);
        let (users, mut upto) = encryption.list_changed_users(range, CHANGED_USERS_MAX).await?;
        if !inboxes.is_empty() {
            let range = (since, upto);
            let messages = encryption.list_messages_of_users(&inboxes, range, MESSAGES_MAX).await?;
            (tidings.messages, upto) = messages;
        }
        if upto < end {
            self.changes.noted.lock().inboxes.extend(inboxes);
            self.feed.bell.notify_one();
        }
        for user in users {
            if interests.concerns_user(&user).await? {
                tidings.changed.insert(user);
            }
        }
        for event in events {
            self.note_membership(interests, event, &mut tidings).await?;
        }
        tidings.counts = self.count_keys(&tidings.messages).await?;
        self.pass_on(&tidings.messages, tx);
        Ok((tidings, upto))
    }

    /// Counts the keys that changed, and those of devices that get messages.
    async fn count_keys(
        &self,
        messages: &[DeviceMessage],
    ) -> Result<Vec<(DeviceName, KeyCounts)>, StorageError> {
        let mut devices: BTreeSet<DeviceName> =
            messages.iter().map(|message| message.device.clone()).collect();
        {
            let mut noted = self.changes.noted.lock();
            while devices.len() < COUNTS_MAX
                && let Some(device) = noted.counted.pop_first()
            {
                devices.insert(device);
            }
            if !noted.counted.is_empty() {
                self.feed.bell.notify_one();
            }
        }
        let devices: Vec<DeviceName> = devices.into_iter().collect();
        self.appservices.0.encryption.count_keys_of(&devices).await
    }

    /// Messages for users of the service alone need not wait any longer (MSC4203): they are in the
    /// transaction, which stays until it is acknowledged. Others wait for a sync of their device too.
    fn pass_on(&self, messages: &[DeviceMessage], tx: &mut WriteTx) {
        let mut last: BTreeMap<&DeviceName, i64> = BTreeMap::new();
        for message in messages {
            if self.service.owns_user(&message.device.user) {
                last.insert(&message.device, message.position);
            }
        }
        for (device, upto) in last {
            self.appservices.0.encryption.push_passed_on(tx, device, upto);
        }
    }

    /// Who comes to share a room with the service, and who shares none any more.
    async fn note_membership(
        &self,
        interests: &Interests,
        event: &StreamEvent,
        tidings: &mut DeviceTidings,
    ) -> Result<(), StorageError> {
        let rooms = &self.appservices.0.rooms;
        let loaded = rooms.load_all(&[event.room]).await?;
        let Some(room) = loaded.first() else { return Ok(()) };
        let stored = rooms.events().load_one(room.facts(), event.event).await?;
        let target = Some(&stored.event).filter(|event| event.kind() == MEMBER);
        let target = target.and_then(|event| UserId::parse(event.state_key()?).ok());
        let Some(target) = target else { return Ok(()) };
        let is_ours = self.service.covers_user(&target);
        match (self.was_joined(room, &stored).await?, is_join(&stored)) {
            (false, true) if is_ours => {
                let is_new = !interests.was_in(room, &stored).await?;
                let members = if is_new { self.list_others(room).await? } else { Vec::new() };
                tidings.changed.extend(members);
            }
            (false, true) => {
                tidings.left.remove(&target);
                tidings.changed.insert(target);
            }
            (true, false) => {
                let gone = match is_ours {
                    true => self.list_others(room).await?,
                    false => vec![target],
                };
                for user in gone {
                    if !interests.concerns_user(&user).await? {
                        tidings.changed.remove(&user);
                        tidings.left.insert(user);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn was_joined(&self, room: &Room, event: &StoredEvent) -> Result<bool, StorageError> {
        let Some(replaced) = event.replaces_nid else { return Ok(false) };
        let events = self.appservices.0.rooms.events();
        Ok(is_join(&*events.load_one(room.facts(), replaced).await?))
    }

    /// The members of a room beside the service's own users; none of a very large room.
    async fn list_others(&self, room: &Room) -> Result<Vec<OwnedUserId>, StorageError> {
        if room.head().joined_count > ROOM_MEMBERS_MAX as i64 {
            return Ok(Vec::new());
        }
        let members = self.appservices.0.encryption.list_room_members(room).await?;
        Ok(members.into_iter().filter(|member| !self.service.covers_user(member)).collect())
    }
}

impl DeviceTidings {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.changed.is_empty()
            && self.left.is_empty()
            && self.counts.is_empty()
    }

    /// Appends fields of a transaction, with a comma before each, by the names that proposals have
    /// before they are accepted: the only ones that all services know.
    pub fn write_json(&self, out: &mut String) {
        if !self.messages.is_empty() {
            write_list(out, r#","de.sorunome.msc2409.to_device":["#, &self.messages, write_message);
        }
        if !self.changed.is_empty() || !self.left.is_empty() {
            let write_user =
                |out: &mut String, user: &OwnedUserId| write_json_string(out, user.as_str());
            write_list(
                out,
                r#","org.matrix.msc3202.device_lists":{"changed":["#,
                &self.changed,
                write_user,
            );
            write_list(out, r#","left":["#, &self.left, write_user);
            out.push('}');
        }
        if self.counts.is_empty() {
            return;
        }
        let mut one_time: BTreeMap<&str, BTreeMap<&str, &BTreeMap<String, usize>>> =
            BTreeMap::new();
        let mut fallback: BTreeMap<&str, BTreeMap<&str, &[String]>> = BTreeMap::new();
        for (DeviceName { user, device }, counts) in &self.counts {
            one_time.entry(user).or_default().insert(device, &counts.one_time);
            fallback.entry(user).or_default().insert(device, &counts.unused_fallback);
        }
        let json = "names and numbers are always JSON";
        out.push_str(r#","org.matrix.msc3202.device_one_time_keys_count":"#);
        out.push_str(&serde_json::to_string(&one_time).expect(json));
        out.push_str(r#","org.matrix.msc3202.device_unused_fallback_key_types":"#);
        out.push_str(&serde_json::to_string(&fallback).expect(json));
    }
}

fn is_join(event: &StoredEvent) -> bool {
    Membership::of_event(&event.event) == Some(Membership::Join)
}

fn write_list<T>(
    out: &mut String,
    before: &str,
    items: impl IntoIterator<Item = T>,
    write: impl Fn(&mut String, T),
) {
    out.push_str(before);
    for (number, item) in items.into_iter().enumerate() {
        out.push_str(if number == 0 { "" } else { "," });
        write(out, item);
    }
    out.push(']');
}

/// A message as a sync has it, with its device.
fn write_message(out: &mut String, message: &DeviceMessage) {
    out.push_str(message.event.strip_suffix('}').unwrap_or(&message.event));
    out.push_str(r#","to_user_id":"#);
    write_json_string(out, &message.device.user);
    out.push_str(r#","to_device_id":"#);
    write_json_string(out, &message.device.device);
    out.push('}');
}
