//! Two people talk through matrix-sdk, the library of Element X, Fractal and iamb: from registering to
//! going on after the server was restarted.
//!
//! Reads `HEARTH_URL` (the server; registration is open there) and `HEARTH_RESTART_COMMAND` (a shell
//! command that returns when the server has been restarted). Ends with status 1 at the first thing that
//! is wrong. Not for encryption, and not for the SDK's own caches.

// The futures of the SDK are nested deeply.
#![recursion_limit = "256"]

use std::{env, pin::pin, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use matrix_sdk::{
    Client, Room, RoomMemberships, RoomState, SlidingSyncList, SlidingSyncMode,
    attachment::AttachmentConfig,
    authentication::matrix::MatrixSession,
    config::{RequestConfig, SyncSettings},
    media::{MediaFormat, MediaRequestParameters, MediaThumbnailSettings},
    room::MessagesOptions,
    ruma::{
        OwnedEventId, OwnedUserId, RoomId,
        api::client::{
            account::register,
            filter::FilterDefinition,
            receipt::create_receipt::v3::ReceiptType,
            room::create_room::v3::{Request as CreateRoom, RoomPreset},
            uiaa::{AuthData, Dummy},
        },
        events::{
            StateEventType,
            receipt::ReceiptThread,
            room::{
                MediaSource,
                message::{MessageType, RoomMessageEventContent},
            },
        },
        uint,
    },
    sliding_sync::Version,
    sync::{RoomUpdate, SyncResponse},
};
use tokio::time::{sleep, timeout};

const PASSWORD: &str = "correct horse battery staple";
const LONG_POLL: Duration = Duration::from_secs(20);
const LIVE_MAX: Duration = Duration::from_secs(10);
const HISTORY_LENGTH: usize = 30;
const PAGE_LENGTH: u32 = 7;

/// A client and the position up to which it has synced.
struct Person {
    client: Client,
    since: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut alice = register("alice").await?;
    let mut bob = register("bob").await?;
    refresh_session(&mut alice).await?;
    let room = open_room(&mut alice, &mut bob).await?;
    send_and_receive_live(&room, &mut bob).await?;
    show_typing_and_receipts(&room, &mut alice, &mut bob).await?;
    watch_room_list(&room, &bob).await?;
    read_history(&room, &mut bob).await?;
    share_picture(&room, &mut bob).await?;
    let alice = restore_after_restart(room.room_id(), alice, &bob).await?;
    leave_and_log_out(room.room_id(), alice, bob).await
}

async fn build_client() -> Result<Client> {
    let url = env::var("HEARTH_URL").context("HEARTH_URL")?;
    let requests = RequestConfig::new().disable_retry();
    Ok(Client::builder().homeserver_url(url).request_config(requests).build().await?)
}

async fn register(name: &str) -> Result<Person> {
    let client = build_client().await?;
    let mut suffix = [0; 4];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut suffix)?;
    let mut request = register::v3::Request::new();
    request.username = Some(format!("{name}-{:08x}", u32::from_ne_bytes(suffix)));
    request.password = Some(PASSWORD.to_owned());
    let Err(question) = client.matrix_auth().register(request.clone()).await else {
        bail!("registered without any authentication");
    };
    let info = question.as_uiaa_response().context("no user-interactive authentication")?;
    let mut answer = Dummy::new();
    answer.session = info.session.clone();
    request.auth = Some(AuthData::Dummy(answer));
    let user_id = client.matrix_auth().register(request).await?.user_id;
    let mut person = log_in(&user_id).await?;
    person.client.account().set_display_name(Some(name)).await?;
    person.sync(Duration::ZERO).await?;
    done(&format!("{name} registers and logs in"));
    Ok(person)
}

async fn log_in(user_id: &OwnedUserId) -> Result<Person> {
    let client = build_client().await?;
    let wrong = client.matrix_auth().login_username(user_id, "not the password").send().await;
    ensure!(is_forbidden(&wrong), "a wrong password: {wrong:?}");
    let login = client.matrix_auth().login_username(user_id, PASSWORD);
    login.initial_device_display_name("rust").request_refresh_token().send().await?;
    ensure!(client.whoami().await?.user_id == *user_id);
    Ok(Person { client, since: None })
}

async fn refresh_session(person: &mut Person) -> Result<()> {
    let before = person.client.access_token().context("an access token")?;
    person.client.refresh_access_token().await?;
    let after = person.client.access_token().context("an access token")?;
    ensure!(before != after, "the token did not change");
    person.client.whoami().await?;
    person.sync(Duration::ZERO).await?;
    done("a session is refreshed");
    Ok(())
}

async fn open_room(alice: &mut Person, bob: &mut Person) -> Result<Room> {
    let mut request = CreateRoom::new();
    request.name = Some("The library".to_owned());
    request.topic = Some("Quiet, please".to_owned());
    request.preset = Some(RoomPreset::PrivateChat);
    let room = alice.client.create_room(request).await?;
    let bobs_name = bob.user_id()?;
    let (invited, waiting) = tokio::join!(
        async {
            sleep(Duration::from_millis(300)).await;
            room.invite_user_by_id(&bobs_name).await
        },
        timeout(LIVE_MAX, bob.sync(LONG_POLL)),
    );
    invited?;
    ensure!(waiting??.rooms.invited.contains_key(room.room_id()), "bob waits but is not told");
    let invitation = bob.client.get_room(room.room_id()).context("bob's invitation")?;
    ensure!(
        invitation.state() == RoomState::Invited
            && invitation.name().as_deref() == Some("The library")
    );
    invitation.join().await?;
    bob.sync_until("bob's room appears", |response| {
        response.rooms.joined.contains_key(room.room_id())
    })
    .await?;
    alice.sync_until("alice sees two members", |_| room.joined_members_count() == 2).await?;
    let bobs_room = bob.client.get_room(room.room_id()).context("bob's room")?;
    ensure!(bobs_room.topic().as_deref() == Some("Quiet, please"));
    let members = bobs_room.members(RoomMemberships::JOIN).await?;
    ensure!(members.iter().any(|member| member.display_name() == Some("alice")));
    done("alice creates a room, bob is invited while he waits, and joins");
    Ok(room)
}

async fn send_and_receive_live(room: &Room, bob: &mut Person) -> Result<()> {
    bob.drain(room.room_id()).await?;
    let (sent, heard) = tokio::join!(
        async {
            sleep(Duration::from_millis(500)).await;
            say(room, "Have you read this?").await
        },
        timeout(LIVE_MAX, bob.sync(LONG_POLL)),
    );
    let ids = event_ids(&heard??, room.room_id());
    ensure!(ids == [sent?], "bob heard {ids:?}");
    let content = RoomMessageEventContent::text_plain("Once");
    let once =
        room.send(content.clone()).with_transaction_id("only-once".into()).await?.response.event_id;
    let twice = room.send(content).with_transaction_id("only-once".into()).await?.response.event_id;
    ensure!(once == twice, "a repeated transaction made a second event");
    ensure!(bob.drain(room.room_id()).await? == [once]);
    done("a message arrives live, and a repeated one only once");
    Ok(())
}

async fn show_typing_and_receipts(room: &Room, alice: &mut Person, bob: &mut Person) -> Result<()> {
    let bobs_room = bob.client.get_room(room.room_id()).context("bob's room")?;
    bobs_room.typing_notice(true).await?;
    alice
        .sync_until("alice sees bob typing", |response| {
            ephemeral_contains(response, room.room_id(), "m.typing")
        })
        .await?;
    let event_id = say(room, "Chapter two").await?;
    bob.sync_until("bob hears chapter two", |response| {
        event_ids(response, room.room_id()).contains(&event_id)
    })
    .await?;
    ensure!(bobs_room.unread_notification_counts().notification_count > 0);
    bobs_room
        .send_single_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, event_id.clone())
        .await?;
    alice
        .sync_until("alice sees bob's receipt", |response| {
            ephemeral_contains(response, room.room_id(), event_id.as_str())
        })
        .await?;
    bob.sync_until("bob's unread count falls to zero", |_| {
        bobs_room.unread_notification_counts().notification_count == 0
    })
    .await?;
    done("typing, unread counts and receipts arrive");
    Ok(())
}

/// As Element X does: a list of rooms that grows, and news while it waits.
async fn watch_room_list(room: &Room, bob: &Person) -> Result<()> {
    let wishes = ["m.room.name", "m.room.topic", "m.room.encryption"]
        .map(|kind| (StateEventType::from(kind), String::new()));
    let me = [(StateEventType::RoomMember, "$LAZY"), (StateEventType::RoomMember, "$ME")];
    let me = me.map(|(kind, key)| (kind, key.to_owned()));
    let list = SlidingSyncList::builder("all_rooms")
        .sync_mode(SlidingSyncMode::new_growing(20))
        .timeline_limit(3)
        .required_state(wishes.into_iter().chain(me).collect());
    // Another client of the same session, which knows nothing yet.
    let watcher = build_client().await?;
    let session = bob.client.matrix_auth().session().context("bob's session")?;
    watcher.restore_session(session).await?;
    let versions = watcher.available_sliding_sync_versions().await;
    let is_offered = versions.iter().any(|version| matches!(version, Version::Native));
    ensure!(is_offered, "the server does not offer sliding sync");
    let sliding = watcher.sliding_sync("room-list")?.with_all_extensions().add_list(list);
    let sliding = sliding.poll_timeout(LONG_POLL).build().await?;
    let mut updates = pin!(sliding.sync());
    let first = timeout(LIVE_MAX, updates.next()).await?.context("the first answer")??;
    ensure!(first.rooms.iter().any(|id| id == room.room_id()), "the list lacks the room");
    let listed = watcher.get_room(room.room_id()).context("the listed room")?;
    ensure!(listed.name().as_deref() == Some("The library"));
    ensure!(listed.topic().as_deref() == Some("Quiet, please"));
    ensure!(listed.state() == RoomState::Joined && listed.joined_members_count() == 2);
    let sent = say(room, "Seen through a window").await?;
    let is_there = |event: &matrix_sdk::deserialized_responses::TimelineEvent| {
        event.event_id().as_deref() == Some(&*sent)
    };
    let mut heard = watcher.subscribe_to_room_updates(room.room_id());
    timeout(LIVE_MAX, async {
        loop {
            tokio::select! {
                update = updates.next() => drop(update.context("the stream ended")??),
                update = heard.recv() => match update? {
                    RoomUpdate::Joined { updates, .. }
                        if updates.timeline.events.iter().any(is_there) => break,
                    _ => {}
                },
            }
        }
        anyhow::Ok(())
    })
    .await??;
    done("a list of rooms shows the room, and what is said in it");
    Ok(())
}

async fn read_history(room: &Room, bob: &mut Person) -> Result<()> {
    let mut sent = Vec::new();
    for number in 0..HISTORY_LENGTH {
        sent.push(say(room, &format!("page {number}")).await?);
    }
    sent.reverse();
    bob.sync(Duration::ZERO).await?;
    let bobs_room = bob.client.get_room(room.room_id()).context("bob's room")?;
    let (mut found, mut from) = (Vec::new(), bob.since.clone());
    loop {
        let mut options = MessagesOptions::backward().from(from.as_deref());
        options.limit = PAGE_LENGTH.into();
        let page = bobs_room.messages(options).await?;
        ensure!(page.chunk.len() <= PAGE_LENGTH as usize);
        found.extend(page.chunk.iter().filter_map(|event| event.event_id()));
        from = page.end;
        if from.is_none() {
            break;
        }
    }
    ensure!(found[..HISTORY_LENGTH] == sent, "other events than were sent, or another order");
    let total = found.len();
    found.sort();
    found.dedup();
    ensure!(found.len() == total, "an event came twice");
    let context = bobs_room.event_with_context(&sent[10], true, uint!(4), None).await?;
    ensure!(context.events_before.len() == 2 && context.events_after.len() == 2);
    done("history is read page by page to its beginning");
    Ok(())
}

async fn share_picture(room: &Room, bob: &mut Person) -> Result<()> {
    let picture = draw_picture(64, 48);
    let png = "image/png".parse()?;
    let sent =
        room.send_attachment("shelf.png", &png, picture.clone(), AttachmentConfig::new()).await?;
    bob.sync_until("bob sees the picture", |response| {
        event_ids(response, room.room_id()).contains(&sent.event_id)
    })
    .await?;
    let event = bob
        .client
        .get_room(room.room_id())
        .context("bob's room")?
        .event(&sent.event_id, None)
        .await?;
    let content: RoomMessageEventContent = event.raw().get_field("content")?.context("content")?;
    let MessageType::Image(image) = content.msgtype else { bail!("not an image: {content:?}") };
    let MediaSource::Plain(_) = &image.source else { bail!("an encrypted file") };
    let request =
        MediaRequestParameters { source: image.source.clone(), format: MediaFormat::File };
    ensure!(bob.client.media().get_media_content(&request, false).await? == picture);
    let small = MediaFormat::Thumbnail(MediaThumbnailSettings::new(uint!(32), uint!(32)));
    let request = MediaRequestParameters { source: image.source, format: small };
    ensure!(!bob.client.media().get_media_content(&request, false).await?.is_empty());
    ensure!(bob.client.load_or_fetch_max_upload_size().await? > uint!(0));
    done("a picture is uploaded, downloaded and made small");
    Ok(())
}

async fn restore_after_restart(
    room_id: &RoomId,
    mut alice: Person,
    bob: &Person,
) -> Result<Person> {
    alice.drain(room_id).await?;
    let bobs_room = bob.client.get_room(room_id).context("bob's room")?;
    let before = say(&bobs_room, "Before the restart").await?;
    let session: MatrixSession = alice.client.matrix_auth().session().context("alice's session")?;
    let device_id = session.meta.device_id.clone();
    restart_server()?;
    let mut restored = Person { client: build_client().await?, since: alice.since };
    restored.client.restore_session(session).await?;
    ensure!(restored.client.whoami().await?.device_id == Some(device_id));
    let missed = restored.sync_with(SyncSettings::new().full_state(true), Duration::ZERO).await?;
    ensure!(
        event_ids(&missed, room_id) == [before],
        "after the restart the sync goes on elsewhere"
    );
    let (sent, heard) = tokio::join!(
        async {
            sleep(Duration::from_millis(300)).await;
            say(&bobs_room, "After the restart").await
        },
        timeout(LIVE_MAX, restored.sync(LONG_POLL)),
    );
    ensure!(event_ids(&heard??, room_id) == [sent?]);
    let room = restored.client.get_room(room_id).context("the restored room")?;
    ensure!(room.name().as_deref() == Some("The library"));
    done("the session goes on after a restart, missing and repeating nothing");
    Ok(restored)
}

fn restart_server() -> Result<()> {
    let command = env::var("HEARTH_RESTART_COMMAND").context("HEARTH_RESTART_COMMAND")?;
    let status =
        Command::new("sh").args(["-c", &command]).stdout(std::process::Stdio::null()).status()?;
    ensure!(status.success(), "the server did not come back");
    Ok(())
}

async fn leave_and_log_out(room_id: &RoomId, mut alice: Person, mut bob: Person) -> Result<()> {
    let room = alice.client.get_room(room_id).context("alice's room")?;
    room.ban_user(&bob.user_id()?, Some("Noise")).await?;
    bob.sync_until("bob sees that he is banned", |response| {
        response.rooms.left.contains_key(room_id)
    })
    .await?;
    let refused = bob.client.join_room_by_id(room_id).await;
    ensure!(is_forbidden(&refused), "the banned bob joins: {refused:?}");
    room.leave().await?;
    alice
        .sync_until("alice sees that she left", |response| {
            response.rooms.left.contains_key(room_id)
        })
        .await?;
    alice.client.logout().await?;
    ensure!(alice.client.whoami().await.is_err(), "the token works after the logout");
    done("bob is banned, alice leaves and logs out");
    Ok(())
}

impl Person {
    fn user_id(&self) -> Result<OwnedUserId> {
        Ok(self.client.user_id().context("not logged in")?.to_owned())
    }

    async fn sync(&mut self, wait: Duration) -> Result<SyncResponse> {
        self.sync_with(SyncSettings::new(), wait).await
    }

    async fn sync_with(&mut self, settings: SyncSettings, wait: Duration) -> Result<SyncResponse> {
        let settings = match &self.since {
            Some(token) => settings.token(token.clone()),
            None => settings,
        };
        let settings = settings.filter(FilterDefinition::with_lazy_loading().into());
        let response = self.client.sync_once(settings.timeout(wait)).await?;
        self.since = Some(response.next_batch.clone());
        Ok(response)
    }

    /// Syncs until something has happened; what never happens is an error after a few seconds.
    async fn sync_until(
        &mut self,
        what: &str,
        happened: impl Fn(&SyncResponse) -> bool,
    ) -> Result<()> {
        let waiting = async {
            while !happened(&self.sync(Duration::from_secs(1)).await?) {}
            Ok(())
        };
        timeout(LIVE_MAX, waiting).await.with_context(|| format!("waited in vain: {what}"))?
    }

    /// Syncs until there is nothing new in the room; returns the events that came.
    async fn drain(&mut self, room_id: &RoomId) -> Result<Vec<OwnedEventId>> {
        let mut seen = Vec::new();
        loop {
            let new = event_ids(&self.sync(Duration::ZERO).await?, room_id);
            if new.is_empty() {
                return Ok(seen);
            }
            seen.extend(new);
        }
    }
}

async fn say(room: &Room, text: &str) -> Result<OwnedEventId> {
    Ok(room.send(RoomMessageEventContent::text_plain(text)).await?.response.event_id)
}

fn event_ids(response: &SyncResponse, room_id: &RoomId) -> Vec<OwnedEventId> {
    let room = response.rooms.joined.get(room_id);
    room.into_iter()
        .flat_map(|room| &room.timeline.events)
        .filter_map(|event| event.event_id())
        .collect()
}

fn ephemeral_contains(response: &SyncResponse, room_id: &RoomId, text: &str) -> bool {
    let room = response.rooms.joined.get(room_id);
    room.is_some_and(|room| room.ephemeral.iter().any(|event| event.json().get().contains(text)))
}

fn is_forbidden<T>(result: &matrix_sdk::Result<T>) -> bool {
    let error = result.as_ref().err().and_then(|error| error.as_client_api_error());
    error.is_some_and(|error| error.status_code == 403)
}

/// A PNG with a colour gradient, without compression: one stored block of deflate.
fn draw_picture(width: u8, height: u8) -> Vec<u8> {
    let row = |y| std::iter::once(0).chain((0..width).flat_map(move |x| [x, y, 128]));
    let pixels: Vec<u8> = (0..height).flat_map(row).collect();
    let length = u16::try_from(pixels.len()).expect("a stored block holds 65,535 bytes");
    let mut data = vec![0x78, 0x01, 0x01];
    data.extend(length.to_le_bytes());
    data.extend((!length).to_le_bytes());
    data.extend(&pixels);
    data.extend(adler32(&pixels).to_be_bytes());
    let header = [0, 0, 0, width, 0, 0, 0, height, 8, 2, 0, 0, 0];
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, body) in [(b"IHDR", &header[..]), (b"IDAT", &data), (b"IEND", &[])] {
        let content = [&kind[..], body].concat();
        file.extend((body.len() as u32).to_be_bytes());
        file.extend(&content);
        file.extend(crc32(&content).to_be_bytes());
    }
    file
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1, 0), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (a + b) % 65_521)
    });
    b << 16 | a
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

fn done(claim: &str) {
    println!("ok: {claim}");
}
