//! What users of generated rooms do: bans and counter-bans, quarrels about power and topics, joins under
//! changing rules, restricted joins, invitations by e-mail, redactions, tombstones.
//!
//! Not for deciding where in the graph they do it (`graph`).

use hearth::protocol::{room_version::RoomVersion, signing::SigningKey, state_key::StateKey};
use ruma::OwnedEventId;
use serde_json::{Value, json};

use crate::graph::{Dice, Graph};

/// An event in the making: what it says, but not who sends it nor what it follows.
pub struct Deed {
    pub kind: &'static str,
    pub state_key: Option<String>,
    pub content: Value,
    pub redacts: Option<OwnedEventId>,
}

impl Deed {
    pub fn state(kind: &'static str, state_key: &str, content: Value) -> Self {
        Self { kind, state_key: Some(state_key.to_owned()), content, redacts: None }
    }

    pub fn member(target: &str, membership: &str) -> Self {
        Self::state("m.room.member", target, json!({ "membership": membership }))
    }

    fn message(kind: &'static str, content: Value) -> Self {
        Self { kind, state_key: None, content, redacts: None }
    }
}

/// Something that `sender` wants to do after `prev_events`, allowed or not.
pub fn choose(graph: &Graph, dice: &mut Dice, sender: &str, prev_events: &[OwnedEventId]) -> Deed {
    // Synapse lets nobody act upon users of other servers in a closed room; the rules ask for less.
    let is_within = |user: &&String| !graph.is_closed || user.ends_with(":s0.example");
    let targets: Vec<&String> = graph.users.iter().filter(is_within).collect();
    let target = (*dice.pick(&targets)).clone();
    match dice.roll(24) {
        0 | 1 => Deed::state("m.room.topic", "", json!({"topic": dice.roll(1000)})),
        2 => Deed::state("m.room.name", "", json!({"name": dice.roll(1000)})),
        3 => {
            let key = if dice.one_in(5) { &target } else { sender };
            Deed::state("org.example.status", key, json!({"status": dice.roll(1000)}))
        }
        4 | 5 => Deed::member(&target, "ban"),
        6 => Deed::member(&target, "leave"),
        7 => Deed::member(&target, "invite"),
        8 => Deed::member(sender, "leave"),
        9 => Deed::member(sender, "knock"),
        10 | 11 => {
            let mut join = Deed::member(sender, "join");
            join.content["join_authorised_via_users_server"] = json!(target);
            join
        }
        12 => Deed::member(sender, "join"),
        13 | 14 => {
            let rules = ["public", "invite", "knock", "restricted", "knock_restricted", "private"];
            Deed::state("m.room.join_rules", "", json!({"join_rule": dice.pick(&rules)}))
        }
        15 => choose_third_party(dice, sender, &target),
        16 => choose_aside(graph, dice, sender),
        17 => Deed::message("m.room.message", json!({"body": dice.roll(1000)})),
        18 => {
            let mut redaction = Deed::message("m.room.redaction", json!({}));
            redaction.redacts = Some(dice.pick(&graph.order).clone());
            redaction
        }
        _ => {
            let levels = change_levels(graph, dice, &target, prev_events);
            Deed::state("m.room.power_levels", "", levels)
        }
    }
}

/// An invitation by e-mail, or its acceptance: in order, or signed for somebody else.
fn choose_third_party(dice: &mut Dice, sender: &str, target: &str) -> Deed {
    let key = SigningKey::from_seed("0", &[9; 32]).unwrap();
    let token = format!("token{}", dice.roll(2));
    if dice.one_in(3) {
        let content = json!({"display_name": "x", "public_key": key.public_key_base64(),
            "key_validity_url": "https://id.example/valid",
            "public_keys": [{"public_key": key.public_key_base64()}]});
        return Deed::state("m.room.third_party_invite", &token, content);
    }
    let mxid = if dice.one_in(5) { sender } else { target };
    let mut signed = json!({"mxid": mxid, "token": token});
    key.sign_json(signed.as_object_mut().unwrap(), "id.example");
    if dice.one_in(5) {
        signed["token"] = json!("token0");
    }
    let mut invite = Deed::member(target, "invite");
    invite.content["third_party_invite"] = json!({"display_name": "x", "signed": signed});
    invite
}

/// What is seldom.
fn choose_aside(graph: &Graph, dice: &mut Dice, sender: &str) -> Deed {
    match dice.roll(4) {
        0 => {
            let content = json!({"body": "moved", "replacement_room": "!next:s0.example"});
            Deed::state("m.room.tombstone", "", content)
        }
        1 => {
            let owner = if dice.one_in(3) { dice.pick(&graph.users) } else { sender };
            let (_, server) = owner.split_once(':').unwrap();
            Deed::state("m.room.aliases", server, json!({"aliases": []}))
        }
        2 => {
            let kinds = ["shared", "joined", "invited", "world_readable"];
            let content = json!({"history_visibility": dice.pick(&kinds)});
            Deed::state("m.room.history_visibility", "", content)
        }
        _ => Deed::member(sender, "dance"),
    }
}

/// The power levels that hold, with one change.
fn change_levels(
    graph: &Graph,
    dice: &mut Dice,
    target: &str,
    prev_events: &[OwnedEventId],
) -> Value {
    let key = StateKey::new("m.room.power_levels", "");
    let current = prev_events.iter().find_map(|id| graph.states[id].get(&key));
    let mut levels: Value = match current {
        Some(id) => serde_json::from_str(graph.events[id].event.content_json()).unwrap(),
        None => json!({}),
    };
    let number = [0, 25, 50, 75, 100][dice.roll(5)];
    // Up to version 9 a level may be spelled as a string.
    let level = match dice.roll(10) {
        0 if graph.version < RoomVersion::V10 => json!(number.to_string()),
        // In a room's first power levels it would be let in, and Synapse would trip over it ever after.
        1 if current.is_some() => json!(format!("x{number}")),
        _ => json!(number),
    };
    let named = ["users_default", "events_default", "state_default", "ban", "kick", "redact"];
    match dice.roll(8) {
        0 => levels["events"]["m.room.topic"] = level,
        1 => levels["events"]["m.room.power_levels"] = level,
        2 => levels["invite"] = level,
        3 => levels[*dice.pick(&named)] = level,
        // Before version 6 no rule looks at `notifications`, but `ruma` refuses malformed ones all the same.
        4 if graph.version < RoomVersion::V6 => levels["notifications"]["room"] = json!(number),
        4 => levels["notifications"]["room"] = level,
        _ => levels["users"][target] = level,
    }
    levels
}
