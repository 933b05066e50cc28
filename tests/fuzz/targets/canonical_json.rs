//! Canonical JSON is one text for one value: reading it gives the value back, and writing that the text.

use hearth::protocol::{
    canonical_json,
    event_hash::{content_hash, has_valid_content_hash},
    signing::{SigningKey, verify_json},
};
use serde_json::Value;

use super::kind_of_error;

pub fn run(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return "not a text".to_owned() };
    let object = match canonical_json::parse_object(text) {
        Ok(object) => object,
        Err(error) => return kind_of_error(&error),
    };
    let value = Value::Object(object.clone());
    let encoded = canonical_json::encode(&value);
    let mut again: Value = serde_json::from_str(&encoded).unwrap();
    assert_eq!(canonical_json::encode(&again), encoded);
    assert_eq!(canonical_json::encode_without(&object, &[]), encoded);
    let strict = canonical_json::check_strict(&value);
    if strict.is_ok() {
        assert_eq!(again, value);
    }
    canonical_json::normalise_numbers(&mut again);
    content_hash(&object);
    has_valid_content_hash(&object);
    let key = SigningKey::from_seed("test", &[7; 32]).unwrap();
    let mut signed = object;
    // Whatever it holds already, a signature that is added is found and right.
    key.sign_json(&mut signed, "a.example");
    verify_json(&signed, "a.example", key.key_id(), &key.verify_key()).unwrap();
    strict.map_or_else(|error| kind_of_error(&error), |()| format!("{} keys", signed.len()))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{}"#,
        r#"{"one":1,"two":"Two"}"#,
        r#"{"b":"2","a":{"日":1,"本":2,"é":[]}}"#,
        r#"{"a":"日\u65E5 \\ \" \n \u0000 \ud83d\ude00","n":null,"t":[true,false]}"#,
        r#"{"a":-0,"b":1e10,"c":1.5,"d":9007199254740991,"e":-9007199254740991}"#,
        r#"{"signatures":{"a.example":{"ed25519:x":"c2ln"}},"unsigned":{"age":5},"hashes":{"sha256":"YQ"}}"#,
        r#"{"a":[[[[[[[[[[{"a":{"a":{"a":{}}}}]]]]]]]]]],"a":2}"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
