//! Keys of devices and users, as clients make them: what tests of end-to-end encryption share.

use hearth::protocol::signing::SigningKey;
use serde_json::{Map, Value, json};

use crate::harness::Client;

/// A device with its signing key.
pub struct Device<'a> {
    pub client: &'a Client,
    pub key: SigningKey,
}

/// The three cross-signing keys of a user.
pub struct CrossSigning {
    pub master: SigningKey,
    pub self_signing: SigningKey,
    pub user_signing: SigningKey,
    user_id: String,
}

/// A signing key that is named by itself.
fn named_by_itself(seed: u8) -> (SigningKey, String) {
    let key = SigningKey::from_seed("x", &[seed; 32]).unwrap();
    let public = key.public_key_base64();
    (key, public)
}

impl<'a> Device<'a> {
    pub fn new(client: &'a Client, seed: u8) -> Self {
        let name: String = client.device_id.chars().filter(char::is_ascii_alphanumeric).collect();
        Self { client, key: SigningKey::from_seed(&name, &[seed; 32]).unwrap() }
    }

    /// Signed identity keys.
    pub fn identity(&self) -> Value {
        let (user, device) = (&self.client.user_id, &self.client.device_id);
        self.sign(json!({
            "user_id": user,
            "device_id": device,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("curve25519:{device}"): "cGxhaW4gdGV4dCBmb3IgYSBwdWJsaWMga2V5IGhlcmU",
                format!("ed25519:{device}"): self.key.public_key_base64(),
            },
        }))
    }

    pub fn sign(&self, object: Value) -> Value {
        sign(object, &self.client.user_id, &self.client.device_id, &self.key)
    }

    /// One-time keys with these numbers.
    pub fn one_time_keys(&self, numbers: std::ops::Range<u32>) -> Value {
        let key = |number: u32| {
            let key =
                self.sign(json!({ "key": format!("key {number} of {}", self.client.device_id) }));
            (format!("signed_curve25519:AAAA{number:04}"), key)
        };
        Value::Object(numbers.map(key).collect())
    }

    /// Uploads identity keys and this many one-time keys.
    pub async fn upload(&self, count: u32) -> Value {
        let body = json!({ "device_keys": self.identity(), "one_time_keys": self.one_time_keys(0..count) });
        self.client.post("/_matrix/client/v3/keys/upload", &body).await.ok()
    }
}

impl CrossSigning {
    pub fn new(client: &Client, seed: u8) -> Self {
        Self {
            master: named_by_itself(seed).0,
            self_signing: named_by_itself(seed + 1).0,
            user_signing: named_by_itself(seed + 2).0,
            user_id: client.user_id.clone(),
        }
    }

    /// The master key, as it is uploaded.
    pub fn master_key(&self) -> Value {
        self.describe(&self.master, "master")
    }

    /// The body of `/keys/device_signing/upload`.
    pub fn upload(&self) -> Value {
        let master = self.master.public_key_base64();
        let signed = |key: &SigningKey, usage| {
            sign(self.describe(key, usage), &self.user_id, &master, &self.master)
        };
        json!({
            "master_key": self.master_key(),
            "self_signing_key": signed(&self.self_signing, "self_signing"),
            "user_signing_key": signed(&self.user_signing, "user_signing"),
        })
    }

    fn describe(&self, key: &SigningKey, usage: &str) -> Value {
        let public = key.public_key_base64();
        let keys = Map::from_iter([(format!("ed25519:{public}"), Value::from(public.as_str()))]);
        json!({ "user_id": self.user_id, "usage": [usage], "keys": keys })
    }

    /// The object with the signature of one of these keys.
    pub fn sign_with(&self, key: &SigningKey, object: Value) -> Value {
        sign(object, &self.user_id, &key.public_key_base64(), key)
    }
}

fn sign(object: Value, user: &str, key_name: &str, key: &SigningKey) -> Value {
    let Value::Object(object) = object else { panic!("not an object: {object}") };
    let mut signed = object.clone();
    key.sign_json(&mut signed, user);
    let signature = signed["signatures"][user][key.key_id()].clone();
    let mut object = Value::Object(object);
    object["signatures"][user][format!("ed25519:{key_name}")] = signature;
    object
}

/// The keys of some users, as `client` sees them.
pub async fn query(client: &Client, users: &[&Client]) -> Value {
    let users: Map<String, Value> =
        users.iter().map(|user| (user.user_id.clone(), json!([]))).collect();
    let body = json!({ "device_keys": users });
    client.post("/_matrix/client/v3/keys/query", &body).await.ok()
}

/// Claims a key of a device; its ID.
pub async fn claim(client: &Client, target: &Client) -> Option<String> {
    let body = json!({
        "one_time_keys": { &target.user_id: { &target.device_id: "signed_curve25519" } },
    });
    let answer = client.post("/_matrix/client/v3/keys/claim", &body).await.ok();
    let keys = answer["one_time_keys"][&target.user_id][&target.device_id].as_object()?.clone();
    assert_eq!(keys.len(), 1, "{answer}");
    keys.into_iter().next().map(|(key_id, _)| key_id)
}
