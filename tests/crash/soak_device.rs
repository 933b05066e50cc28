//! One device of the soak: logs in, does what devices do until the server dies, and settles afterwards
//! what was on its way.

use std::collections::HashMap;

use hearth::protocol::signing::SigningKey;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::{
    Dice,
    process::{Process, request},
    soak::Shared,
};

/// One-time keys of an upload; the next one comes when so many are left.
const KEYS: u64 = 10;
const KEYS_LEFT: u64 = 3;
/// A device logs out after so many steps, about.
const STEPS_OF_SESSION: u64 = 60;
const ALGORITHM: &str = "signed_curve25519";

/// A device by name. Names never come back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    pub user: String,
    pub device: String,
}

/// A place for one device after the other.
pub struct Device {
    slot: usize,
    id: DeviceId,
    truth: Shared,
    dice: Dice,
    /// None while logged out.
    token: Option<String>,
    logins: usize,
    since: Option<String>,
    uploads: u64,
    keys_left: u64,
    /// The number of the next message.
    next: u64,
    /// The latest number from each sender.
    heard: HashMap<usize, u64>,
    /// Messages of this device's time, for the final count.
    received: Vec<(usize, u64)>,
    /// What was on its way when the server died.
    pending: Option<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    LogIn,
    Upload,
    Claim(DeviceId),
    Send(DeviceId, u64),
    Sync,
    LogOut,
}

impl Device {
    pub fn new(slot: usize, user: String, dice: Dice, truth: Shared) -> Self {
        let id = DeviceId { user, device: String::new() };
        Self {
            slot,
            id,
            truth,
            dice,
            token: None,
            logins: 0,
            since: None,
            uploads: 0,
            keys_left: 0,
            next: 0,
            heard: HashMap::new(),
            received: Vec::new(),
            pending: None,
        }
    }

    pub fn logins(&self) -> usize {
        self.logins
    }

    /// Goes on until the server is gone.
    pub async fn live(mut self, url: String) -> Self {
        let http = Client::new();
        loop {
            let step = self.choose();
            // Nothing may come between the last look for messages and the end.
            let wanted = match step {
                Step::LogOut => self.acknowledged(),
                _ => Vec::new(),
            };
            if let Step::LogOut = step
                && !self.drain(&http, &url, &wanted).await
            {
                return self;
            }
            let (method, path, body) = self.request_for(&step);
            let token = self.token.clone().unwrap_or_default();
            if let Step::LogOut = step {
                self.truth.lock().unwrap().alive.remove(&self.id);
            }
            match request(&http, &url, method, &path, &token, &body).await {
                Ok((status, answer)) => self.note(step, status, &answer),
                Err(_) => {
                    self.pending = Some(step);
                    return self;
                }
            }
        }
    }

    /// Repeats what was on its way. A claim is not repeated: its key is gone.
    pub async fn settle(&mut self, server: &Process) {
        let Some(step) = self.pending.take() else { return };
        if let Step::Claim(_) = step {
            return;
        }
        let (method, path, body) = self.request_for(&step);
        let token = self.token.clone().unwrap_or_default();
        let (status, answer) = server.try_call(method, &path, &token, body).await;
        match (&step, status) {
            (Step::LogOut, StatusCode::UNAUTHORIZED) => self.end(),
            _ => self.note(step, status, &answer),
        }
    }

    /// With everybody at rest: all that was acknowledged has come.
    pub async fn check_messages(&mut self, server: &Process) {
        if self.token.is_none() {
            return;
        }
        let wanted = self.acknowledged();
        assert!(self.drain(&Client::new(), &server.url(), &wanted).await, "the server is gone");
    }

    fn acknowledged(&self) -> Vec<(usize, u64)> {
        self.truth.lock().unwrap().sent.get(&self.id).cloned().unwrap_or_default()
    }

    /// Syncs until there are no messages left, and checks that all of `wanted` were there; false when
    /// the server died.
    async fn drain(&mut self, http: &Client, url: &str, wanted: &[(usize, u64)]) -> bool {
        let token = self.token.clone().unwrap_or_default();
        loop {
            let (method, path, body) = self.request_for(&Step::Sync);
            let Ok((status, answer)) = request(http, url, method, &path, &token, &body).await
            else {
                return false;
            };
            let before = self.received.len();
            self.note(Step::Sync, status, &answer);
            if self.received.len() == before {
                break;
            }
        }
        let missing: Vec<_> = wanted.iter().filter(|sent| !self.received.contains(sent)).collect();
        assert!(missing.is_empty(), "{:?} has not got {missing:?}", self.id);
        true
    }

    fn choose(&mut self) -> Step {
        if let Some(pending) = self.pending.take() {
            return pending;
        }
        if self.token.is_none() {
            self.logins += 1;
            self.id.device = format!("S{}X{}", self.slot, self.logins);
            return Step::LogIn;
        }
        if self.uploads == 0 || self.keys_left <= KEYS_LEFT {
            return Step::Upload;
        }
        if self.dice.roll(&(0..STEPS_OF_SESSION)) == 0 {
            return Step::LogOut;
        }
        let target = {
            let truth = self.truth.lock().unwrap();
            let index = self.dice.roll(&(0..truth.alive.len().max(1) as u64)) as usize;
            truth.alive.iter().nth(index).cloned()
        };
        match (self.dice.roll(&(0..4)), target) {
            (0, Some(target)) => Step::Claim(target),
            (1 | 2, Some(target)) => {
                self.next += 1;
                Step::Send(target, self.next)
            }
            _ => Step::Sync,
        }
    }

    fn request_for(&self, step: &Step) -> (Method, String, Value) {
        let v3 = "/_matrix/client/v3";
        match step {
            Step::LogIn => {
                let body = json!({
                    "type": "m.login.password", "password": "correct horse", "device_id": self.id.device,
                    "identifier": { "type": "m.id.user", "user": self.id.user },
                });
                (Method::POST, format!("{v3}/login"), body)
            }
            Step::Upload => (Method::POST, format!("{v3}/keys/upload"), self.keys()),
            Step::Claim(DeviceId { user, device }) => {
                let body = json!({ "one_time_keys": { user: { device: ALGORITHM } } });
                (Method::POST, format!("{v3}/keys/claim"), body)
            }
            Step::Send(DeviceId { user, device }, number) => {
                let content = json!({ "slot": self.slot, "number": number });
                let body = json!({ "messages": { user: { device: content } } });
                (Method::PUT, format!("{v3}/sendToDevice/org.example.told/n{number}"), body)
            }
            Step::Sync => {
                let since =
                    self.since.as_ref().map_or(String::new(), |since| format!("&since={since}"));
                (Method::GET, format!("{v3}/sync?set_presence=offline{since}"), Value::Null)
            }
            Step::LogOut => (Method::POST, format!("{v3}/logout"), json!({})),
        }
    }

    /// Identity keys and some one-time keys, each with another ID than all before.
    fn keys(&self) -> Value {
        let DeviceId { user, device } = &self.id;
        let mut seed = [self.slot as u8; 32];
        seed[0] = self.logins as u8;
        let key = SigningKey::from_seed(device, &seed).unwrap();
        let mut identity = Map::from_iter([
            ("user_id".to_owned(), json!(user)),
            ("device_id".to_owned(), json!(device)),
            ("algorithms".to_owned(), json!(["m.megolm.v1.aes-sha2"])),
            ("keys".to_owned(), json!({ format!("ed25519:{device}"): key.public_key_base64() })),
        ]);
        key.sign_json(&mut identity, user);
        let one_time =
            |number: u64| (format!("{ALGORITHM}:{device}U{}N{number}", self.uploads), json!("key"));
        let one_time: Map<String, Value> = (0..KEYS).map(one_time).collect();
        json!({ "device_keys": identity, "one_time_keys": one_time })
    }

    fn note(&mut self, step: Step, status: StatusCode, answer: &Value) {
        assert_eq!(status, 200, "{step:?} of {:?}: {answer}", self.id);
        match step {
            Step::LogIn => self.token = answer["access_token"].as_str().map(str::to_owned),
            Step::Upload => {
                self.uploads += 1;
                self.keys_left = answer["one_time_key_counts"][ALGORITHM].as_u64().unwrap();
                self.truth.lock().unwrap().alive.insert(self.id.clone());
            }
            Step::Claim(target) => {
                let keys = answer["one_time_keys"][&target.user][&target.device].as_object();
                for (key_id, _) in keys.into_iter().flatten() {
                    self.truth.lock().unwrap().claim(&target, key_id);
                }
            }
            Step::Send(target, number) => {
                let mut truth = self.truth.lock().unwrap();
                truth.sent.entry(target).or_default().push((self.slot, number));
            }
            Step::Sync => self.hear(answer),
            Step::LogOut => self.end(),
        }
    }

    fn hear(&mut self, answer: &Value) {
        self.since = answer["next_batch"].as_str().map(str::to_owned);
        self.keys_left = answer["device_one_time_keys_count"][ALGORITHM].as_u64().unwrap_or(0);
        let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
        for event in events {
            let field = |name: &str| event["content"][name].as_u64().unwrap();
            let (slot, number) = (field("slot") as usize, field("number"));
            let before = self.heard.insert(slot, number);
            assert!(
                before < Some(number),
                "{:?}: {number} of {slot} came after {before:?}",
                self.id
            );
            self.received.push((slot, number));
            self.truth.lock().unwrap().received += 1;
        }
    }

    fn end(&mut self) {
        let mut truth = self.truth.lock().unwrap();
        truth.alive.remove(&self.id);
        truth.sent.remove(&self.id);
        drop(truth);
        self.token = None;
        self.since = None;
        self.uploads = 0;
        self.keys_left = 0;
        self.heard.clear();
        self.received.clear();
    }
}
