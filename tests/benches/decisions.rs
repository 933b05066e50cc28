//! How long it takes to decide whom an event concerns: members with push rules and pushers, and
//! application services. Prints microseconds an event.
//!
//!     cargo bench --bench decisions
//!     HEARTH_BENCH_MEMBERS=1000 cargo bench --bench decisions

#![expect(clippy::unwrap_used, reason = "a benchmark may fail by panicking")]

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use hearth::{
    accounts::{push_rules::PushRuleChange, register::NewAccount},
    app::{App, AppState},
    appservices::{AliasEpoch, Follower, Interests},
    clock::Clock,
    config::{CacheShare, Config, Size},
    outbound::{Outbound, OutboundSettings},
    protocol::{membership::Membership, power_levels::PowerLevels, room_version::RoomVersion},
    push::delivery::{Delivery, MailSettings, Verdict},
    rooms::{
        AcceptanceHook as _, Accepted, DirectoryVisibility, EventRequest, MemberChange, NewRoom,
        Preset, Room, StoredEvent,
    },
    storage::{WriteTx, pushers::StoredPusher},
};
use ruma::{
    OwnedUserId,
    push::{NewPushRule, NewSimplePushRule},
};
use serde_json::{Map, json};

const MEMBERS: usize = 10_000;
const SERVICES: usize = 20;
const ROUNDS: u32 = 200;
/// Writes that are under way at a time while the rooms are made.
const ABREAST: usize = 64;

fn main() {
    let members = std::env::var("HEARTH_BENCH_MEMBERS").map_or(MEMBERS, |n| n.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        measure_rules(members).await;
        measure_services(members).await;
    });
}

/// Rules are asked by members who have some of their own, and pushers told.
async fn measure_rules(members: usize) {
    let directory = tempfile::tempdir().unwrap();
    let app = start(directory.path()).await;
    let users = register(&app, members, |number| format!("u{number}")).await;
    let room = make_room(&app, &users).await;
    let event = say(&app, &room, &users[0]).await;
    let took = accept(&app, &room, &event).await;
    println!("{members} members with the rules that all have: judged in {took:.1} us");

    stream::iter(&users).for_each_concurrent(ABREAST, |user| mute_elsewhere(&app, user)).await;
    let took = accept(&app, &room, &event).await;
    println!("{members} members with rules of their own: judged in {took:.1} us");

    stream::iter(&users).for_each_concurrent(ABREAST, |user| subscribe(&app, user)).await;
    let took = announce(&app, &room, &event).await;
    println!("{members} members with pushers: handed out in {took:.1} us");
    let took = accept(&app, &room, &event).await;
    println!("{members} members with both: judged in {took:.1} us");
    app.shutdown.cancel();
}

/// Rooms with users of many services.
async fn measure_services(members: usize) {
    let directory = tempfile::tempdir().unwrap();
    let app = start(directory.path()).await;
    for number in 0..SERVICES {
        let registration = json!({
            // Nobody listens there: what is queued stays where it is.
            "id": format!("s{number}"), "url": "http://127.0.0.1:1", "as_token": format!("as{number}"),
            "hs_token": format!("hs{number}"), "sender_localpart": format!("bot{number}"),
            "namespaces": {
                "users": [{ "regex": format!("@s{number}_.*"), "exclusive": true }],
                "aliases": [{ "regex": format!("#s{number}_.*"), "exclusive": true }], "rooms": [],
            },
        });
        app.appservices.add(&registration.to_string()).await.unwrap();
    }
    let name = |number: usize| format!("s{}_{number}", number % SERVICES);
    let users = register(&app, members, name).await;
    let room = make_room(&app, &users).await;
    let services = app.appservices.services().list().to_vec();
    let interests = Interests::new(app.rooms.clone(), services, AliasEpoch::default());
    let message = say(&app, &room, &users[0]).await;
    assert_eq!(interests.of_event(&room, &message).await.unwrap().len(), SERVICES);
    let began = app.clock.instant();
    for _ in 0..ROUNDS {
        interests.of_event(&room, &message).await.unwrap();
    }
    let took = began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
    println!("{SERVICES} services, {members} bridged users, a message: decided in {took:.2} us");

    // Every message behind a change of the state, decided as it comes.
    let mut took = 0.0;
    for number in 0..ROUNDS {
        let topic = EventRequest::state(&*users[0], "m.room.topic", "", json!({ "topic": number }));
        app.rooms.send(&room, topic).await.unwrap();
        let message = say(&app, &room, &users[0]).await;
        let began = app.clock.instant();
        interests.of_event(&room, &message).await.unwrap();
        took += began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
    }
    println!("the same, each behind a change of the state: decided in {took:.2} us");
    catch_up(&app, &room, &users).await;
    queue(&app, &room, &users[0]).await;
    app.shutdown.cancel();
}

/// What a service pays that was away while users changed their names.
async fn catch_up(app: &AppState, room: &Arc<Room>, users: &[OwnedUserId]) {
    let mut events = Vec::new();
    for user in users.iter().take(ROUNDS as usize) {
        let content = json!({ "membership": "join", "displayname": "renamed" });
        let renamed = EventRequest::state(user.clone(), "m.room.member", user.as_str(), content);
        events.push(app.rooms.send(room, renamed).await.unwrap());
    }
    let services = app.appservices.services().list().to_vec();
    let interests = Interests::new(app.rooms.clone(), services, AliasEpoch::default());
    interests.of_event(room, &events[0]).await.unwrap();
    let began = app.clock.instant();
    for event in &events {
        interests.of_event(room, event).await.unwrap();
    }
    let took = began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
    println!("the same, changes of the state after an outage: decided in {took:.2} us");
}

/// Deciding and queueing together, from the store to what waits for each service.
async fn queue(app: &AppState, room: &Arc<Room>, user: &OwnedUserId) {
    let mut events = Vec::new();
    for _ in 0..ROUNDS {
        events.push(say(app, room, user).await);
    }
    let follower = Follower::new(&app.appservices);
    let (first, last) = (events[0].position(), events[events.len() - 1].position());
    follower.look_through((first - 1, first)).await.unwrap();
    let began = app.clock.instant();
    assert_eq!(follower.look_through((first - 1, last)).await.unwrap(), last);
    let took = began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
    println!("the same, messages that come together: decided and queued in {took:.2} us each");
    let began = app.clock.instant();
    for event in &events {
        let position = event.position();
        follower.look_through((position - 1, position)).await.unwrap();
    }
    let took = began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
    println!("the same, messages that come one by one: decided and queued in {took:.2} us each");
}

async fn start(directory: &std::path::Path) -> AppState {
    let mut config = Config::default();
    config.server.data_dir = directory.to_owned();
    config.memory.budget = Size::mib(1024);
    App::build(config, Clock::real()).await.unwrap()
}

async fn register(
    app: &AppState,
    members: usize,
    name: impl Fn(usize) -> String,
) -> Vec<OwnedUserId> {
    let made = stream::iter(0..members).map(|number| {
        let name = name(number);
        let owner = name.strip_prefix('s').and_then(|rest| rest.split_once('_'));
        let appservice_id = owner.map(|(service, _)| format!("s{service}"));
        let account = NewAccount { name: Some(name), appservice_id, ..NewAccount::default() };
        async { app.accounts.register(account).await.unwrap().user_id }
    });
    made.buffered(ABREAST).collect().await
}

async fn make_room(app: &AppState, users: &[OwnedUserId]) -> Arc<Room> {
    let new = NewRoom {
        creator: users[0].clone(),
        version: RoomVersion::V12,
        visibility: DirectoryVisibility::Public,
        preset: Some(Preset::PublicChat),
        name: None,
        topic: None,
        invites: Vec::new(),
        creator_profile: Map::new(),
        creation_content: Map::new(),
        initial_state: Vec::new(),
        power_level_content_override: Map::new(),
    };
    let room = app.rooms.create(&new, None).await.unwrap();
    let join = async |user: &OwnedUserId| {
        let change = MemberChange {
            sender: user.clone(),
            target: user.clone(),
            membership: Membership::Join,
            content: Map::new(),
            is_guest: false,
        };
        app.rooms.join(&room, change).await.unwrap();
    };
    for user in &users[1..] {
        join(user).await;
    }
    room
}

async fn say(app: &AppState, room: &Arc<Room>, user: &OwnedUserId) -> Arc<StoredEvent> {
    let content = json!({ "msgtype": "m.text", "body": "Is there any tea left in the kitchen?" });
    let request = EventRequest::message(user.clone(), "m.room.message", content);
    app.rooms.send(room, request).await.unwrap()
}

/// A rule for a room that they are not in: every event is held against it.
async fn mute_elsewhere(app: &AppState, user: &OwnedUserId) {
    let room_id = "!elsewhere:localhost".try_into().unwrap();
    let rule = NewPushRule::Room(NewSimplePushRule::new(room_id, Vec::new()));
    let change = PushRuleChange::Insert { rule, before: None, after: None };
    app.accounts.change_push_rules(user, change).await.unwrap();
}

async fn subscribe(app: &AppState, user: &OwnedUserId) {
    let text = |text: &str| text.to_owned();
    let pusher = StoredPusher {
        app_id: text("app"),
        pushkey: user.to_string(),
        kind: text("http"),
        app_display_name: text("App"),
        device_display_name: text("Phone"),
        profile_tag: None,
        lang: text("en"),
        data: text("{\"url\":\"https://127.0.0.1:1/_matrix/push/v1/notify\"}"),
        device_id: text("DEVICE"),
    };
    app.accounts.set_pusher(user, pusher, true).await.unwrap();
}

/// What the rules add to the acceptance of a message, microseconds.
async fn accept(app: &AppState, room: &Arc<Room>, event: &Arc<StoredEvent>) -> f64 {
    let content = event.event.content_as().unwrap();
    let requests = [EventRequest::message(event.event.sender(), "m.room.message", content)];
    // Once for what has to be read.
    app.push.prepare(&app.rooms, Some(room), &requests).await.unwrap();
    let mut seconds = 0.0;
    for _ in 0..ROUNDS {
        let head = room.head();
        let accepted = Accepted {
            room,
            head: &head,
            events: std::slice::from_ref(event),
            positions: &[0],
            joined: &[],
            redacted: &[],
        };
        let began = app.clock.instant();
        let acceptance = app.push.prepare(&app.rooms, Some(room), &requests).await.unwrap();
        // Never committed.
        let mut tx = WriteTx::new();
        acceptance.accept(&accepted, &mut tx);
        seconds += began.elapsed().as_secs_f64();
    }
    seconds * 1e6 / f64::from(ROUNDS)
}

/// Putting a message into the mailboxes of all members, microseconds.
async fn announce(app: &AppState, room: &Arc<Room>, event: &Arc<StoredEvent>) -> f64 {
    let settings = OutboundSettings {
        blocked_networks: Vec::new(),
        ca_files: Vec::new(),
        verify_servers: true,
    };
    let web = Outbound::new(settings, app.clock.clone());
    let parts = (app.rooms.clone(), app.accounts.clone(), app.push.clone());
    let memory_bytes = app.config.memory.share(CacheShare::Push);
    let mails = MailSettings {
        mailer: app.mailer.clone(),
        public_url: app.config.public_url(),
        delay: app.config.push.mail_delay,
        pause: app.config.push.mail_pause,
    };
    // Nobody serves these mailboxes.
    let delivery = Delivery::load(parts, (web, None), mails, memory_bytes).await.unwrap();
    let verdict = |position| Verdict {
        room: Arc::clone(room),
        event: Arc::clone(event),
        position,
        thread: None,
        notifies: true,
        levels: Arc::new(PowerLevels::from_events(None, None, room.rules)),
        member_count: room.head().joined_count.unsigned_abs(),
        own: Vec::new(),
    };
    delivery.announce(&verdict(event.position())).await.unwrap();
    let began = app.clock.instant();
    for round in 1..=ROUNDS {
        delivery.announce(&verdict(event.position() + i64::from(round))).await.unwrap();
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
}
