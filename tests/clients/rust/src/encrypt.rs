//! People with several devices talk in an encrypted room through matrix-sdk, as Element X and Fractal do:
//! cross-signing, recovery, key backup, verification by emoji, requests for keys between own devices, history
//! that is shared with who is invited, and many devices.
//!
//! Reads `HEARTH_URL` (the server; registration is open there) and `HEARTH_RESTART_COMMAND` (a shell
//! command that returns when the server has been restarted). Bob, carol and dora live on another server when
//! `HEARTH_PEER_URL` names one. Ends with status 1 at the first thing that is wrong. Not for what `main`
//! shows.

// The futures of the SDK are nested deeply.
#![recursion_limit = "256"]

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use matrix_sdk::{
    Client, Room,
    config::SyncSettings,
    deserialized_responses::TimelineEventKind,
    encryption::{
        BackupDownloadStrategy, EncryptionSettings,
        verification::{Emoji, SasVerification, Verification, VerificationRequest},
    },
    room::MessagesOptions,
    ruma::{
        OwnedEventId, OwnedRoomId, OwnedUserId, UserId,
        api::client::{
            account::register,
            room::create_room::v3::{Request as CreateRoom, RoomPreset},
            uiaa::{AuthData, Dummy},
        },
        events::{
            InitialStateEvent,
            room::{
                encryption::RoomEncryptionEventContent, member::MembershipState,
                message::RoomMessageEventContent,
            },
        },
    },
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

const PASSWORD: &str = "correct horse battery staple";
const WAIT_MAX: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// With three others there are 20 devices in the room.
const CROWD_DEVICES: usize = 17;

/// A person's account.
struct Account {
    user_id: OwnedUserId,
    url: String,
}

/// What a device does by itself.
#[derive(Clone, Default)]
struct Habits {
    /// Where it keeps what it knows; in memory when None.
    store: Option<PathBuf>,
    /// Whether it backs keys up, and asks the backup for those that it lacks.
    has_backup: bool,
    /// Whether it gives the keys of what was said to who is invited, and takes them (MSC4268).
    shares_history: bool,
}

/// A client and the position up to which it has synced.
struct Device {
    client: Client,
    since: Option<String>,
    url: String,
    habits: Habits,
}

/// The room of all this.
struct Talk {
    room_id: OwnedRoomId,
}

#[tokio::main]
async fn main() -> Result<()> {
    let home = env::temp_dir().join(format!("hearth-rust-{}", std::process::id()));
    let outcome = talk(&home).await;
    if home.exists() {
        std::fs::remove_dir_all(&home)?;
    }
    outcome
}

async fn talk(home: &Path) -> Result<()> {
    let url = env::var("HEARTH_URL").context("HEARTH_URL")?;
    let peer = env::var("HEARTH_PEER_URL").unwrap_or_else(|_| url.clone());
    let stored = |name: &str| {
        let store = Some(home.join(name));
        Habits { store, has_backup: true, shares_history: true }
    };
    let (alice, bob) =
        (Account::register("alice", &url).await?, Account::register("bob", &peer).await?);
    let mut phone = alice.log_in(stored("phone")).await?;
    let recovery_key = set_up_recovery(&phone).await?;
    let mut bob = bob.log_in(stored("bob")).await?;
    let talk = Talk::begin(&mut phone).await?;
    talk.share_history(&mut phone, &mut bob).await?;
    talk.say("Hello", &mut [&mut phone, &mut bob]).await?;
    let mut tablet = talk.recover(&alice, stored("tablet"), &recovery_key, &phone).await?;
    let mut laptop = alice.log_in(Habits { shares_history: false, ..stored("laptop") }).await?;
    verify(&mut laptop, &mut phone).await?;
    done("a new device is verified by an older one and gets its secrets");
    talk.say("Four devices", &mut [&mut phone, &mut tablet, &mut laptop, &mut bob]).await?;
    tablet.client.matrix_auth().logout().await?;
    talk.say("Without the tablet", &mut [&mut phone, &mut laptop, &mut bob]).await?;
    let carol = Account::register("carol", &peer).await?;
    talk.let_stranger_in(&carol, &mut [&mut phone, &mut laptop, &mut bob]).await?;
    let dora = Account::register("dora", &peer).await?;
    talk.let_crowd_in(&dora, &mut [&mut phone, &mut laptop, &mut bob]).await?;
    if let Ok(command) = env::var("HEARTH_RESTART_COMMAND") {
        let status =
            Command::new("sh").args(["-c", &command]).stdout(std::io::stderr()).status()?;
        ensure!(status.success(), "the restart failed: {status}");
        let mut phone = phone.reopen().await?;
        talk.say("After the restart", &mut [&mut phone, &mut laptop, &mut bob]).await?;
        done("a device that was opened again goes on");
    }
    Ok(())
}

/// Cross-signing and backup begin by themselves with the first login; recovery makes them last.
async fn set_up_recovery(phone: &Device) -> Result<String> {
    let encryption = phone.client.encryption();
    let status = encryption.cross_signing_status().await.context("no status")?;
    ensure!(status.is_complete(), "there are no cross-signing keys: {status:?}");
    let key = encryption.recovery().enable().wait_for_backups_to_upload().await?;
    ensure!(encryption.backups().are_enabled().await, "there is no backup");
    done("cross-signing, backup and recovery are set up");
    Ok(key)
}

impl Talk {
    async fn begin(phone: &mut Device) -> Result<Self> {
        let mut request = CreateRoom::new();
        request.preset = Some(RoomPreset::PrivateChat);
        let encryption = RoomEncryptionEventContent::with_recommended_defaults();
        let encryption = InitialStateEvent::with_empty_state_key(encryption).to_raw_any();
        request.initial_state = vec![encryption];
        let room = phone.client.create_room(request).await?;
        phone.sync().await?;
        ensure!(room.latest_encryption_state().await?.is_encrypted(), "the room is not encrypted");
        Ok(Self { room_id: room.room_id().to_owned() })
    }

    /// Who is invited gets the keys of what was said before (MSC4268).
    async fn share_history(&self, phone: &mut Device, bob: &mut Device) -> Result<()> {
        let event_id = self.send(phone, "Before bob").await?;
        bob.sync().await?;
        self.invite(phone, bob).await?;
        // His server may have to fetch what was said before he came.
        self.room_of(bob)?.messages(MessagesOptions::backward()).await?;
        self.await_text(&event_id, "Before bob", &mut [phone, bob]).await?;
        done("who is invited reads what was said before");
        Ok(())
    }

    async fn invite(&self, host: &mut Device, guest: &mut Device) -> Result<()> {
        let guest_id = guest.client.user_id().context("the guest is nobody")?.to_owned();
        self.room_of(host)?.invite_user_by_id(&guest_id).await?;
        let deadline = Instant::now() + WAIT_MAX;
        while guest.client.get_room(&self.room_id).is_none() {
            ensure!(Instant::now() < deadline, "{guest_id} is not invited");
            guest.sync().await?;
            sleep(PAUSE).await;
        }
        guest.client.join_room_by_id(&self.room_id).await?;
        let deadline = Instant::now() + WAIT_MAX;
        while !self.has_member(host, &guest_id).await? {
            ensure!(Instant::now() < deadline, "{guest_id} does not appear");
            host.sync().await?;
            sleep(PAUSE).await;
        }
        guest.sync().await
    }

    /// Each device says something, and all of them read it.
    async fn say(&self, what: &str, devices: &mut [&mut Device]) -> Result<()> {
        for speaker in 0..devices.len() {
            self.say_from(speaker, &format!("{what} {speaker}"), devices).await?;
        }
        done(&format!("{what}: {} devices read each other", devices.len()));
        Ok(())
    }

    /// One device says something, and all of them read it.
    async fn say_from(
        &self,
        speaker: usize,
        text: &str,
        devices: &mut [&mut Device],
    ) -> Result<OwnedEventId> {
        devices[speaker].sync().await?;
        let event_id = self.send(devices[speaker], text).await?;
        self.await_text(&event_id, text, devices).await?;
        Ok(event_id)
    }

    async fn send(&self, device: &Device, text: &str) -> Result<OwnedEventId> {
        let content = RoomMessageEventContent::text_plain(text);
        Ok(self.room_of(device)?.send(content).await?.response.event_id)
    }

    async fn await_text(
        &self,
        event_id: &OwnedEventId,
        text: &str,
        devices: &mut [&mut Device],
    ) -> Result<()> {
        let deadline = Instant::now() + WAIT_MAX;
        let mut reading: Vec<usize> = (0..devices.len()).collect();
        while !reading.is_empty() {
            let mut blind = Vec::new();
            for index in reading {
                devices[index].sync().await?;
                // It may not have come to the device's server yet.
                let read = self.read(devices[index], event_id).await.unwrap_or_default();
                if read.as_deref() != Some(text) {
                    blind.push(index);
                }
            }
            reading = blind;
            if let Some(first) = reading.first() {
                let name = devices[*first].name();
                ensure!(Instant::now() < deadline, "{name} cannot read «{text}»");
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// A device that has nothing but the recovery key restores the backup.
    async fn recover(
        &self,
        alice: &Account,
        habits: Habits,
        key: &str,
        phone: &Device,
    ) -> Result<Device> {
        let event_id = self.send(phone, "Before the tablet").await?;
        phone.client.encryption().backups().wait_for_steady_state().await?;
        let mut tablet = alice.log_in(habits).await?;
        ensure!(self.read(&tablet, &event_id).await?.is_none(), "a new device has old keys");
        tablet.client.encryption().recovery().recover(key).await?;
        self.await_text(&event_id, "Before the tablet", &mut [&mut tablet]).await?;
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let own = tablet.client.encryption().get_own_device().await?.context("no device")?;
            if own.is_cross_signed_by_owner() {
                break;
            }
            ensure!(Instant::now() < deadline, "the tablet is not signed");
            tablet.sync().await?;
            sleep(PAUSE).await;
        }
        done("a device with the recovery key restores the backup");
        Ok(tablet)
    }

    /// Who comes later and is not given the history reads what follows until they leave, and nothing else.
    async fn let_stranger_in(&self, carol: &Account, devices: &mut [&mut Device; 3]) -> Result<()> {
        let before = self.say_from(0, "Carol is not here", &mut devices[..]).await?;
        let mut first = carol.log_in(Habits::default()).await?;
        let [phone, laptop, bob] = devices.each_mut().map(|device| &mut **device);
        self.invite(laptop, &mut first).await?;
        self.say("With carol", &mut [&mut *phone, &mut first, &mut *bob]).await?;
        self.cannot_read(&mut first, &before).await?;
        let text = "Before carol's tablet";
        let during = self.say_from(0, text, &mut [&mut *phone, &mut first]).await?;
        let mut second = carol.log_in(Habits::default()).await?;
        verify(&mut second, &mut first).await?;
        let deadline = Instant::now() + WAIT_MAX;
        while self.read(&second, &during).await?.is_none() {
            ensure!(Instant::now() < deadline, "carol's devices do not give each other keys");
            second.sync().await?;
            first.sync().await?;
            sleep(PAUSE).await;
        }
        self.cannot_read(&mut second, &before).await?;
        done("a device asks an older one for a key");
        self.room_of(&first)?.leave().await?;
        let deadline = Instant::now() + WAIT_MAX;
        while self.has_member(phone, &carol.user_id).await? {
            ensure!(Instant::now() < deadline, "carol is still there");
            phone.sync().await?;
            sleep(PAUSE).await;
        }
        let after = self.say_from(0, "Carol has left", &mut [phone, laptop, bob]).await?;
        self.cannot_read(&mut first, &after).await?;
        self.cannot_read(&mut second, &after).await?;
        done("who comes later reads only what is said while they are there");
        Ok(())
    }

    /// Somebody with many devices.
    async fn let_crowd_in(&self, dora: &Account, devices: &mut [&mut Device; 3]) -> Result<()> {
        let mut crowd = vec![dora.log_in(Habits::default()).await?];
        self.invite(devices[1], &mut crowd[0]).await?;
        while crowd.len() < CROWD_DEVICES {
            crowd.push(dora.log_in(Habits::default()).await?);
        }
        let earlier = {
            let mut all: Vec<&mut Device> =
                devices.iter_mut().map(|device| &mut **device).collect();
            all.extend(crowd.iter_mut());
            let mut last = None;
            for speaker in [0, all.len() - 1] {
                last = Some(
                    self.say_from(speaker, &format!("Hello, 20 devices {speaker}"), &mut all)
                        .await?,
                );
            }
            last.context("nobody spoke")?
        };
        done("20 devices read each other");
        let gone = crowd.pop().context("an empty crowd")?;
        gone.client.matrix_auth().logout().await?;
        let mut new = dora.log_in(Habits::default()).await?;
        self.cannot_read(&mut new, &earlier).await?;
        let mut all: Vec<&mut Device> = devices.iter_mut().map(|device| &mut **device).collect();
        all.extend(crowd.iter_mut());
        all.push(&mut new);
        self.say_from(0, "One is gone, one is new", &mut all).await?;
        done("a device that comes later reads what follows");
        Ok(())
    }

    /// What is not meant for a device stays closed to it, also when it has all that it was sent.
    async fn cannot_read(&self, device: &mut Device, event_id: &OwnedEventId) -> Result<()> {
        device.sync().await?;
        device.sync().await?;
        // Who has left is not even given the event.
        let read = self.read(device, event_id).await.unwrap_or_default();
        ensure!(read.is_none(), "{} reads {read:?}", device.name());
        Ok(())
    }

    /// The text of an event; None when the device has no key for it.
    async fn read(&self, device: &Device, event_id: &OwnedEventId) -> Result<Option<String>> {
        let event = self.room_of(device)?.event(event_id, None).await?;
        let TimelineEventKind::Decrypted(decrypted) = &event.kind else { return Ok(None) };
        let content: Option<Value> = decrypted.event.get_field("content")?;
        Ok(content.and_then(|content| content["body"].as_str().map(str::to_owned)))
    }

    async fn has_member(&self, viewer: &Device, user_id: &UserId) -> Result<bool> {
        let member = self.room_of(viewer)?.get_member_no_sync(user_id).await?;
        Ok(member.is_some_and(|member| *member.membership() == MembershipState::Join))
    }

    fn room_of(&self, device: &Device) -> Result<Room> {
        device
            .client
            .get_room(&self.room_id)
            .with_context(|| format!("no room for {}", device.name()))
    }
}

/// A new device is verified by another one of the same person, and gets the secrets from it.
async fn verify(new: &mut Device, old: &mut Device) -> Result<()> {
    let user_id = new.client.user_id().context("nobody")?.to_owned();
    let device_id = new.client.device_id().context("no device")?.to_owned();
    let deadline = Instant::now() + WAIT_MAX;
    while old.client.encryption().get_device(&user_id, &device_id).await?.is_none() {
        ensure!(Instant::now() < deadline, "the older device does not hear of the new one");
        old.sync().await?;
        sleep(PAUSE).await;
    }
    let identity = new.client.encryption().request_user_identity(&user_id).await?;
    let request = identity.context("no identity")?.request_verification().await?;
    let deadline = Instant::now() + WAIT_MAX;
    let received = loop {
        ensure!(Instant::now() < deadline, "the request did not come");
        old.sync().await?;
        let encryption = old.client.encryption();
        if let Some(found) = encryption.get_verification_request(&user_id, request.flow_id()).await
        {
            break found;
        }
        sleep(PAUSE).await;
    };
    received.accept().await?;
    let (mine, theirs) = start(&request, &received, new, old).await?;
    settle(new, old, || mine.can_be_presented() && theirs.can_be_presented()).await?;
    ensure!(mine.emoji().map(symbols) == theirs.emoji().map(symbols), "the emoji differ");
    mine.confirm().await?;
    theirs.confirm().await?;
    settle(new, old, || mine.is_done() && theirs.is_done()).await?;
    let encryption = new.client.encryption();
    let deadline = Instant::now() + WAIT_MAX;
    while !encryption.cross_signing_status().await.is_some_and(|status| status.is_complete()) {
        ensure!(Instant::now() < deadline, "the cross-signing keys did not come");
        old.sync().await?;
        new.sync().await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

fn symbols(emoji: [Emoji; 7]) -> [&'static str; 7] {
    emoji.map(|emoji| emoji.symbol)
}

async fn start(
    request: &VerificationRequest,
    received: &VerificationRequest,
    new: &mut Device,
    old: &mut Device,
) -> Result<(SasVerification, SasVerification)> {
    settle(new, old, || request.is_ready()).await?;
    let mine = request.start_sas().await?.context("no verification was begun")?;
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        ensure!(Instant::now() < deadline, "the verification did not begin");
        old.sync().await?;
        let (user, flow) = (received.own_user_id(), received.flow_id());
        let found = old.client.encryption().get_verification(user, flow).await;
        if let Some(Verification::SasV1(theirs)) = found {
            theirs.accept().await?;
            return Ok((mine, theirs));
        }
        sleep(PAUSE).await;
    }
}

async fn settle(new: &mut Device, old: &mut Device, holds: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + WAIT_MAX;
    while !holds() {
        ensure!(Instant::now() < deadline, "the verification goes nowhere");
        new.sync().await?;
        old.sync().await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

impl Account {
    async fn register(name: &str, url: &str) -> Result<Self> {
        let client = Client::builder().homeserver_url(url).build().await?;
        let mut request = register::v3::Request::new();
        request.username = Some(format!("{name}-{:x}", std::process::id()));
        request.password = Some(PASSWORD.to_owned());
        request.inhibit_login = true;
        request.auth = Some(AuthData::Dummy(Dummy::new()));
        let user_id = client.matrix_auth().register(request).await?.user_id;
        Ok(Self { user_id, url: url.to_owned() })
    }

    async fn log_in(&self, habits: Habits) -> Result<Device> {
        let client = build(&self.url, &habits).await?;
        client.matrix_auth().login_username(&self.user_id, PASSWORD).send().await?;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        let mut device = Device { client, since: None, url: self.url.clone(), habits };
        device.sync().await?;
        Ok(device)
    }
}

impl Device {
    /// The same device after its program was ended and started again.
    async fn reopen(self) -> Result<Self> {
        let session = self.client.matrix_auth().session().context("no session")?;
        let Self { client, since, url, habits } = self;
        drop(client);
        let client = build(&url, &habits).await?;
        client.restore_session(session).await?;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        Ok(Self { client, since, url, habits })
    }

    /// Syncs without waiting.
    async fn sync(&mut self) -> Result<()> {
        let settings = match &self.since {
            Some(token) => SyncSettings::new().token(token.clone()),
            None => SyncSettings::new(),
        };
        let answer = self.client.sync_once(settings.timeout(Duration::ZERO)).await?;
        self.since = Some(answer.next_batch);
        Ok(())
    }

    fn name(&self) -> String {
        let (user, device) = (self.client.user_id(), self.client.device_id());
        format!("{user:?} {device:?}")
    }
}

async fn build(url: &str, habits: &Habits) -> Result<Client> {
    let backup_download_strategy = match habits.has_backup {
        true => BackupDownloadStrategy::AfterDecryptionFailure,
        false => BackupDownloadStrategy::Manual,
    };
    let settings = EncryptionSettings {
        auto_enable_cross_signing: true,
        backup_download_strategy,
        auto_enable_backups: habits.has_backup,
    };
    let builder = Client::builder()
        .homeserver_url(url)
        .with_encryption_settings(settings)
        .with_enable_share_history_on_invite(habits.shares_history);
    let builder = match &habits.store {
        Some(store) => builder.sqlite_store(store, None),
        None => builder,
    };
    Ok(builder.build().await?)
}

fn done(claim: &str) {
    println!("ok: {claim}");
}
