//! What clients send to be kept and worked with: filters, push rules, power levels. What is read is
//! used on an event, and survives being written down.

use hearth::{
    protocol::{
        event::Event,
        power_levels::{PowerLevels, PowerLevelsContent},
        push_rules::{CompiledRules, Mentions, PushEvent, default_ruleset},
        room_version::RoomVersion,
    },
    rooms::RoomEventFilter,
    sync::SyncFilter,
};
use ruma::{UserId, push::Ruleset};
use serde_json::{Map, Value};

use super::{events::furnished, split_version, with_version};
use crate::room::{ALICE, BOB};

pub fn run(input: &[u8]) -> String {
    let Some((version, text)) = split_version(input) else { return "not a text".to_owned() };
    let mut kinds = String::new();
    if let Ok(filter) = serde_json::from_str::<SyncFilter>(text) {
        let written = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<SyncFilter>(&written).unwrap(), filter);
        kinds.push_str(&format!("sync{}", written.len() / 64));
    }
    if let Ok(filter) = serde_json::from_str::<RoomEventFilter>(text) {
        filter.events.takes_type("m.room.message");
        filter.events.takes_sender(ALICE);
        kinds.push_str(if filter.events.takes_all() { "all" } else { "some" });
    }
    if let Ok(rules) = serde_json::from_str::<Ruleset>(text) {
        push(version, &rules);
        kinds.push_str(&format!("push{}", rules.iter().count()));
    }
    if let Ok(content) = serde_json::from_str::<Map<String, Value>>(text) {
        PowerLevelsContent::parse_lenient(&content, version.rules());
        let levels = PowerLevelsContent::parse(&content, version.rules());
        kinds.push_str(if levels.is_ok() { "levels" } else { "object" });
    }
    kinds
}

fn push(version: RoomVersion, rules: &Ruleset) {
    let user = <&UserId>::try_from(BOB).unwrap();
    let compiled = CompiledRules::compile(rules, user, Mentions::ByName);
    let json = r#"{"auth_events":[],"content":{"body":"Hello, bob!","a.b":{"c":[1,"x"]}},"depth":1,
        "hashes":{},"origin_server_ts":1,"prev_events":[],"room_id":"!room:a.example",
        "sender":"@alice:a.example","signatures":{},"type":"m.room.message"}"#;
    let Ok(event) = Event::parse(json, RoomVersion::V11.rules()) else {
        panic!("the event is good")
    };
    let power = PowerLevels::from_events(None, None, version.rules());
    let event = PushEvent::new(&event, 2, &power, &compiled);
    compiled.evaluate(&event, user, Some("Bob"));
}

pub fn seeds() -> Vec<Vec<u8>> {
    let bob = <&UserId>::try_from(BOB).unwrap();
    let own = r#"{"override":[{"rule_id":"x","default":false,"enabled":true,"actions":["notify",{"set_tweak":
        "highlight"}],"conditions":[{"kind":"event_match","key":"content.body","pattern":"h?l*"},{"kind":
        "event_property_is","key":"content.a\\.b.c","value":1},{"kind":"event_property_contains","key":
        "content.a\\.b.c","value":"x"},{"kind":"room_member_count","is":">=2"},{"kind":
        "sender_notification_permission","key":"room"}]}],"content":[{"rule_id":"y","default":false,
        "enabled":true,"actions":[],"pattern":"bo*"}]}"#;
    let filter = r#"{"account_data":{"types":["m.*"],"limit":5},"room":{"rooms":["!room:a.example"],
        "timeline":{"limit":10,"lazy_load_members":true,"contains_url":true,"not_senders":[]},
        "include_leave":true},"event_fields":["content.body"],"event_format":"federation"}"#;
    let mut texts = vec![own.to_owned(), filter.to_owned(), "{}".to_owned()];
    texts.push(serde_json::to_string(&default_ruleset(bob, Mentions::ByName)).unwrap());
    let room = furnished(RoomVersion::V11);
    texts.extend(room.state.values().map(|event| event.content_json().to_owned()));
    let versions = [RoomVersion::V1, RoomVersion::V12];
    texts.iter().flat_map(|text| versions.map(|version| with_version(version, text))).collect()
}
