//! What a push gateway is sent (push-gateway API, "POST /_matrix/push/v1/notify"). Pure.

use serde_json::{Map, Value, json};

use super::mailbox::Tweaks;
use crate::{protocol::event::Event, storage::pushers::StoredPusher};

/// Everything about a notification but the device.
pub struct Letter<'a> {
    pub event: &'a Event,
    pub sender_name: Option<String>,
    pub room_name: Option<String>,
    pub room_alias: Option<String>,
    pub user_is_target: bool,
    pub tweaks: &'a Tweaks,
}

/// A notification of an event, in the format that the pusher asks for (client-server API,
/// "PusherData"). Where only the IDs are wanted, nothing is said of what happened.
pub fn write_notification(
    letter: &Letter<'_>,
    unread: i64,
    pusher: &StoredPusher,
    pushkey_ts: i64,
) -> Value {
    let event = letter.event;
    let data = read_data(pusher);
    let is_short = data.get("format").is_some_and(|format| format == "event_id_only");
    let mut notification = json!({
        "event_id": event.event_id(),
        "room_id": event.room_id(),
        "prio": if is_urgent(letter) { "high" } else { "low" },
        "counts": counts(unread),
    });
    let tweaks = (!is_short).then_some(letter.tweaks);
    notification["devices"] = json!([device(pusher, pushkey_ts, data, tweaks)]);
    if !is_short {
        notification["type"] = event.kind().into();
        notification["sender"] = event.sender().as_str().into();
        notification["content"] = event.content_as().unwrap_or_else(|_| json!({}));
        let texts = [
            ("sender_display_name", &letter.sender_name),
            ("room_name", &letter.room_name),
            ("room_alias", &letter.room_alias),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                notification[key] = text.as_str().into();
            }
        }
        if letter.user_is_target {
            notification["user_is_target"] = true.into();
        }
    }
    json!({ "notification": notification })
}

/// The count alone, which disturbs nobody.
pub fn write_badge(unread: i64, pusher: &StoredPusher, pushkey_ts: i64) -> Value {
    let device = device(pusher, pushkey_ts, read_data(pusher), None);
    json!({ "notification": { "prio": "low", "counts": counts(unread), "devices": [device] } })
}

/// "Counts whose value is zero should be omitted."
fn counts(unread: i64) -> Value {
    if unread > 0 { json!({ "unread": unread }) } else { json!({}) }
}

/// "The `data` dictionary passed in at pusher creation minus the `url` key."
fn read_data(pusher: &StoredPusher) -> Map<String, Value> {
    let mut data: Map<String, Value> = serde_json::from_str(&pusher.data).unwrap_or_default();
    data.remove("url");
    data
}

fn device(
    pusher: &StoredPusher,
    pushkey_ts: i64,
    data: Map<String, Value>,
    tweaks: Option<&Tweaks>,
) -> Value {
    let mut device = json!({
        "app_id": pusher.app_id,
        "pushkey": pusher.pushkey,
        "pushkey_ts": pushkey_ts / 1000,
        "data": data,
    });
    if let Some(tweaks) = tweaks {
        device["tweaks"] = Value::Object(tweaks.clone());
    }
    device
}

/// Whether the device should be woken at once: what rings or highlights, and what only the device can
/// judge since it is encrypted.
fn is_urgent(letter: &Letter<'_>) -> bool {
    let is_set = |tweak: &str| letter.tweaks.get(tweak).is_some_and(|value| *value != false);
    letter.event.kind() == "m.room.encrypted" || is_set("sound") || is_set("highlight")
}

/// Tweaks from actions of push rules as JSON (client-server API, "Actions"): the value of a highlight
/// is `true` if not given.
pub fn tweaks_of(actions: &Value) -> Tweaks {
    let actions = actions.as_array().into_iter().flatten();
    let tweak = |action: &Value| {
        let name = action.get("set_tweak")?.as_str()?.to_owned();
        Some((name, action.get("value").cloned().unwrap_or(Value::Bool(true))))
    };
    let tweaks: Tweaks = actions.filter_map(tweak).collect();
    let is_off = |name: &str, value: &Value| name == "highlight" && *value == false;
    tweaks.into_iter().filter(|(name, value)| !is_off(name, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tweaks_are_read_from_actions() {
        let actions = json!([
            "notify", { "set_tweak": "sound", "value": "ring" }, { "set_tweak": "highlight" },
        ]);
        let expect = json!({ "sound": "ring", "highlight": true });
        assert_eq!(Value::Object(tweaks_of(&actions)), expect);
        let off = json!(["notify", { "set_tweak": "highlight", "value": false }]);
        assert!(tweaks_of(&off).is_empty());
    }
}
