//! Canonical JSON: the vectors of the appendices, and what strict versions refuse.

use hearth::protocol::canonical_json::{
    CanonicalJsonError, NESTING_DEPTH_MAX, check_strict, encode, normalise_numbers, parse_object,
};
use serde_json::{Value, json};

#[test]
fn vectors_of_the_appendices_hold() {
    let vectors = [
        ("{}", "{}"),
        (r#"{"one": 1, "two": "Two"}"#, r#"{"one":1,"two":"Two"}"#),
        (r#"{"b": "2", "a": "1"}"#, r#"{"a":"1","b":"2"}"#),
        (r#"{"b":"2","a":"1"}"#, r#"{"a":"1","b":"2"}"#),
        (
            r#"{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {
                "display_name": "John Doe", "three_pids": [
                {"medium": "email", "address": "john.doe@example.org"},
                {"medium": "msisdn", "address": "123456789"}]}}}"#,
            concat!(
                r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","#,
                r#""three_pids":[{"address":"john.doe@example.org","medium":"email"},"#,
                r#"{"address":"123456789","medium":"msisdn"}]},"success":true}}"#
            ),
        ),
        (r#"{"a": "日本語"}"#, r#"{"a":"日本語"}"#),
        (r#"{"本": 2, "日": 1}"#, r#"{"日":1,"本":2}"#),
        (r#"{"a": "\u65E5"}"#, r#"{"a":"日"}"#),
        (r#"{"a": null}"#, r#"{"a":null}"#),
        (r#"{"a": -0, "b": 1e10}"#, r#"{"a":0,"b":10000000000}"#),
    ];
    for (input, expected) in vectors {
        let mut value: Value = serde_json::from_str(input).unwrap();
        normalise_numbers(&mut value);
        assert_eq!(encode(&value), expected);
    }
}

/// Hashing relies on it: with the feature `preserve_order` of `serde_json` every hash would be wrong.
#[test]
fn maps_are_sorted_by_code_point() {
    let value: Value =
        serde_json::from_str(r#"{"\uD83D\uDE00":1,"\uFFFD":2,"b":3,"":4,"a":5,"B":6}"#).unwrap();
    assert_eq!(encode(&value), "{\"\":4,\"B\":6,\"a\":5,\"b\":3,\"\u{FFFD}\":2,\"😀\":1}");
}

#[test]
fn control_characters_are_escaped_as_the_grammar_says() {
    let text: String = (0..0x20u8).map(char::from).chain("\"\\/\u{7f}é".chars()).collect();
    let expected = concat!(
        r#""\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f"#,
        r#"\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c"#,
        r#"\u001d\u001e\u001f\"\\/"#,
        "\u{7f}é\""
    );
    assert_eq!(encode(&Value::String(text)), expected);
}

#[test]
fn floats_of_old_rooms_are_written_as_the_reference_implementation_writes_them() {
    let cases = [
        ("50.0", "50.0"),
        ("50.57", "50.57"),
        ("1e10", "10000000000.0"),
        ("1e15", "1000000000000000.0"),
        ("1e16", "1e+16"),
        ("1.5e300", "1.5e+300"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("1.25e-7", "1.25e-07"),
        ("-2.5", "-2.5"),
    ];
    for (input, expected) in cases {
        let value: Value = serde_json::from_str(input).unwrap();
        assert_eq!(encode(&value), expected);
    }
}

#[test]
fn strict_versions_refuse_what_is_no_integer_in_range() {
    use CanonicalJsonError::{IntegerOutOfRange, NotAnInteger};
    let cases = [
        ("9007199254740991", Ok(())),
        ("-9007199254740991", Ok(())),
        ("9007199254740992", Err(IntegerOutOfRange)),
        ("-9007199254740992", Err(IntegerOutOfRange)),
        ("18446744073709551615", Err(IntegerOutOfRange)),
        ("18446744073709551616", Err(IntegerOutOfRange)),
        ("1e400", Err(NotAnInteger)),
        ("1.0", Err(NotAnInteger)),
        ("1e3", Err(NotAnInteger)),
        ("-0", Err(NotAnInteger)),
        ("0.1", Err(NotAnInteger)),
    ];
    for (number, expected) in cases {
        // A number beyond binary64 cannot be read at all.
        let Ok(value) = serde_json::from_str::<Value>(&format!("{{\"a\":[{number}]}}")) else {
            assert_eq!(number, "1e400");
            continue;
        };
        assert_eq!(check_strict(&value), expected, "{number}");
    }
}

#[test]
fn hostile_text_is_an_error_and_not_a_crash() {
    let syntax = |text: &str| {
        assert!(matches!(parse_object(text), Err(CanonicalJsonError::Syntax(_))), "{text}");
    };
    syntax("");
    syntax("{");
    syntax(r#"{"a":"\ud800"}"#);
    syntax(r#"{"a":"\ud800\u0041"}"#);
    syntax(r#"{"a":1}x"#);
    syntax(r#"{"a":1e999}"#);
    syntax(r#"{"a":NaN}"#);
    syntax("{\"a\":\"\u{1}\"}");
    assert_eq!(parse_object("[]"), Err(CanonicalJsonError::NotAnObject));
    let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert!(parse_object(&deep(NESTING_DEPTH_MAX - 1)).is_ok());
    assert_eq!(parse_object(&deep(NESTING_DEPTH_MAX)), Err(CanonicalJsonError::TooDeep));
    assert_eq!(parse_object(&deep(1_000_000)), Err(CanonicalJsonError::TooDeep));
}

#[test]
fn values_made_here_are_bounded_in_depth_as_well() {
    let nest = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    assert_eq!(check_strict(&nest(NESTING_DEPTH_MAX)), Ok(()));
    assert_eq!(check_strict(&nest(NESTING_DEPTH_MAX + 1)), Err(CanonicalJsonError::TooDeep));
}
