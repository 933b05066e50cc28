//! Identifiers, addresses and tokens of any text: what is read is written as it was, and read again.

use hearth::{
    media::address::MediaAddress,
    protocol::{
        history_visibility::HistoryVisibility,
        membership::Membership,
        room_version::RoomVersion,
        signing::{SigningKey, VerifyKey},
    },
    rooms::PageToken,
    sync::SyncToken,
};
use ruma::{EventId, RoomAliasId, RoomId, RoomOrAliasId, ServerName, UserId};

pub fn run(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return "not a text".to_owned() };
    let mut kinds = String::new();
    let mut note = |kind: char, read: Option<String>| {
        if let Some(read) = read {
            assert_eq!(read, text, "{kind}");
            kinds.push(kind);
        }
    };
    note('u', UserId::parse(text).ok().inspect(|id| use_user(id)).map(|id| id.to_string()));
    note('r', RoomId::parse(text).ok().map(|id| id.to_string()));
    note('e', EventId::parse(text).ok().map(|id| id.to_string()));
    note(
        'a',
        RoomAliasId::parse(text).ok().map(|id| format!("#{}:{}", id.alias(), id.server_name())),
    );
    note('o', RoomOrAliasId::parse(text).ok().map(|id| id.to_string()));
    note(
        's',
        ServerName::parse(text).ok().inspect(|name| use_server(name)).map(|name| name.to_string()),
    );
    note('v', RoomVersion::parse(text).map(|version| version.as_str().to_owned()));
    note('m', Membership::parse(text).map(|membership| membership.as_str().to_owned()));
    note('h', HistoryVisibility::parse(text).map(|seen| seen.as_str().to_owned()));
    if let Some(token) = PageToken::parse(text) {
        assert_eq!(PageToken::parse(&token.to_string()), Some(token));
        kinds.push('t');
    }
    if let Ok(token) = text.parse::<SyncToken>() {
        assert_eq!(token.to_string().parse(), Ok(token));
        kinds.push('y');
    }
    if let Some((server, media)) = text.split_once('/')
        && let Ok(address) = MediaAddress::parse(server, media)
    {
        assert!(!address.media_id.contains(['/', '.', '\\', '\0']));
        kinds.push('c');
    }
    if let Ok(key) = SigningKey::parse_key_file(text) {
        assert_eq!(
            SigningKey::parse_key_file(&key.format_key_file()).unwrap().key_id(),
            key.key_id()
        );
        kinds.push('k');
    }
    if let Ok(key) = VerifyKey::from_base64(text) {
        VerifyKey::from_base64(&key.to_base64()).unwrap();
        kinds.push('b');
    }
    kinds
}

fn use_user(id: &UserId) {
    assert_eq!(format!("@{}:{}", id.localpart(), id.server_name()), id.as_str());
}

fn use_server(name: &ServerName) {
    assert!(name.as_str().starts_with(name.host()));
    name.port();
    name.is_ip_literal();
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "@alice:a.example",
        "@:x",
        "!room:a.example:8448",
        "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "$event:a.example",
        "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "#alias:[::1]:8448",
        "127.0.0.1:1",
        "[1234:5678::abcd]",
        "a.example",
        "12",
        "join",
        "world_readable",
        "t-5",
        "s12_7",
        "s12",
        "a.example/AbC_-9",
        "Fn3iqz4NV3+wzjSMWzGtHJfnQfQbBbvkQ5pHrXoPUZ0",
        "ed25519 a AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
