//! The authorisation rules of every room version, as tables of situations and verdicts.

use hearth::protocol::{
    authorisation::{AuthEvent, AuthRejection, check_auth_events},
    event::Event,
    power_levels::PowerLevelsError,
    room_version::RoomVersion,
    signing::SigningKey,
};
use serde_json::{Value, json};

use crate::room::{ALICE, BOB, CAROL, Room};

/// Runs `check` for every room version that `select` names.
fn each_version(select: impl Fn(RoomVersion) -> bool, check: impl Fn(RoomVersion)) {
    RoomVersion::ALL.into_iter().filter(|version| select(*version)).for_each(check);
}

fn all(_: RoomVersion) -> bool {
    true
}

/// What the rules say about an event of `sender` in `room`, which stays as it is.
fn verdict(
    room: &mut Room,
    sender: &str,
    kind: &str,
    state_key: Option<&str>,
    content: Value,
) -> Result<(), AuthRejection> {
    let event = room.make(sender, kind, state_key, content);
    room.judge(&event)
}

fn membership(
    room: &mut Room,
    sender: &str,
    target: &str,
    content: Value,
) -> Result<(), AuthRejection> {
    verdict(room, sender, "m.room.member", Some(target), content)
}

#[test]
fn create_event_stands_at_the_beginning() {
    each_version(all, |version| {
        let mut room = Room::joined(version);
        let content = json!({"creator": ALICE});
        let late = verdict(&mut room, ALICE, "m.room.create", Some(""), content.clone());
        assert_eq!(late, Err(AuthRejection::CreateHasPrevEvents));
        room.head.clear();
        let mut create =
            |sender, content| verdict(&mut room, sender, "m.room.create", Some(""), content);
        assert_eq!(create(ALICE, content.clone()), Ok(()));
        let unknown = json!({"creator": ALICE, "room_version": "13"});
        assert_eq!(create(ALICE, unknown), Err(AuthRejection::UnknownRoomVersion));
        let not_text = json!({"creator": ALICE, "room_version": 1});
        assert_eq!(create(ALICE, not_text), Err(AuthRejection::UnknownRoomVersion));
        let foreign = create(BOB, content);
        let expected = if version == RoomVersion::V12 {
            Ok(())
        } else {
            Err(AuthRejection::CreateRoomOfAnotherServer)
        };
        assert_eq!(foreign, expected);
        let expected =
            if version <= RoomVersion::V10 { Err(AuthRejection::CreatorMissing) } else { Ok(()) };
        assert_eq!(create(ALICE, json!({})), expected);
    });
}

#[test]
fn additional_creators_must_be_user_ids() {
    each_version(all, |version| {
        let mut room = Room::joined(version);
        room.head.clear();
        let mut create = |creators: Value| {
            let content = json!({"creator": ALICE, "additional_creators": creators});
            verdict(&mut room, ALICE, "m.room.create", Some(""), content)
        };
        assert_eq!(create(json!([BOB])), Ok(()));
        for bad in [json!("x"), json!([1]), json!(["bob"]), json!([BOB, "@bob"]), json!(null)] {
            let expected = if version == RoomVersion::V12 {
                Err(AuthRejection::BadAdditionalCreators)
            } else {
                Ok(())
            };
            assert_eq!(create(bad), expected);
        }
    });
}

#[test]
fn only_the_creator_joins_right_after_creation() {
    each_version(all, |version| {
        let mut room = Room::new(version);
        assert_eq!(room.member(BOB, BOB, "join").unwrap_err(), AuthRejection::NotInvited);
        assert!(room.member(ALICE, ALICE, "join").is_ok());
    });
}

#[test]
fn closed_room_refuses_other_servers() {
    each_version(all, |version| {
        let mut room = Room::with_create(version, json!({"m.federate": false}));
        room.member(ALICE, ALICE, "join").unwrap();
        room.join_rule("public");
        assert_eq!(room.member(BOB, BOB, "join").unwrap_err(), AuthRejection::RoomNotFederated);
        assert!(room.member("@dora:a.example", "@dora:a.example", "join").is_ok());
    });
}

#[test]
fn aliases_belong_to_their_server_up_to_version_5() {
    each_version(all, |version| {
        let mut room = Room::public(version);
        let old = version <= RoomVersion::V5;
        let mut aliases = |state_key| {
            verdict(&mut room, BOB, "m.room.aliases", state_key, json!({"aliases": []}))
        };
        let too_low = Err(AuthRejection::PowerTooLow { required: 50 });
        assert_eq!(aliases(Some("b.example")), if old { Ok(()) } else { too_low.clone() });
        let foreign = Err(AuthRejection::AliasesOfAnotherServer);
        assert_eq!(aliases(Some("a.example")), if old { foreign } else { too_low });
        let missing = Err(AuthRejection::StateKeyMissing);
        assert_eq!(aliases(None), if old { missing } else { Ok(()) });
    });
}

#[test]
fn join_needs_a_rule_that_allows_it() {
    // The join rule, the membership before, and the first version in which the join is allowed.
    let cases: [(&str, &str, Option<RoomVersion>); 18] = [
        ("public", "leave", Some(RoomVersion::V1)),
        ("public", "invite", Some(RoomVersion::V1)),
        ("public", "ban", None),
        ("invite", "leave", None),
        ("invite", "invite", Some(RoomVersion::V1)),
        ("invite", "join", Some(RoomVersion::V1)),
        ("invite", "ban", None),
        ("knock", "leave", None),
        ("knock", "invite", Some(RoomVersion::V7)),
        ("knock", "join", Some(RoomVersion::V7)),
        ("restricted", "leave", None),
        ("restricted", "invite", Some(RoomVersion::V8)),
        ("restricted", "join", Some(RoomVersion::V8)),
        ("knock_restricted", "leave", None),
        ("knock_restricted", "invite", Some(RoomVersion::V10)),
        ("knock_restricted", "join", Some(RoomVersion::V10)),
        ("private", "invite", None),
        ("org.example.rule", "invite", None),
    ];
    each_version(all, |version| {
        for (rule, before, since) in cases {
            let mut room = room_with(version, rule, before);
            let allowed = since.is_some_and(|since| version >= since);
            let verdict = membership(&mut room, BOB, BOB, json!({"membership": "join"}));
            assert_eq!(verdict.is_ok(), allowed, "{version} {rule} {before}: {verdict:?}");
            if before == "ban" {
                assert_eq!(verdict, Err(AuthRejection::UserBanned));
            }
        }
    });
}

/// A room of Alice with a join rule, in which Bob has `membership`.
fn room_with(version: RoomVersion, rule: &str, membership: &str) -> Room {
    let mut room = Room::public(version);
    match membership {
        "join" => {}
        "leave" => drop(room.member(BOB, BOB, "leave").unwrap()),
        "ban" => drop(room.member(ALICE, BOB, "ban").unwrap()),
        "invite" => {
            room.member(BOB, BOB, "leave").unwrap();
            room.member(ALICE, BOB, "invite").unwrap();
        }
        "knock" => {
            room.join_rule("knock");
            room.member(BOB, BOB, "leave").unwrap();
            room.member(BOB, BOB, "knock").unwrap();
        }
        other => panic!("no way to {other}"),
    }
    room.join_rule(rule);
    room
}

#[test]
fn nobody_joins_or_knocks_for_another() {
    each_version(
        |version| version >= RoomVersion::V7,
        |version| {
            let mut room = Room::public(version);
            let join = membership(&mut room, ALICE, CAROL, json!({"membership": "join"}));
            assert_eq!(join, Err(AuthRejection::JoinForAnotherUser));
            room.join_rule("knock");
            let knock = membership(&mut room, ALICE, CAROL, json!({"membership": "knock"}));
            assert_eq!(knock, Err(AuthRejection::KnockForAnotherUser));
        },
    );
}

#[test]
fn restricted_join_needs_a_joined_member_who_may_invite() {
    each_version(
        |version| version >= RoomVersion::V8,
        |version| {
            let mut room = room_with(version, "restricted", "leave");
            let join =
                |via: &str| json!({"membership": "join", "join_authorised_via_users_server": via});
            assert_eq!(membership(&mut room, BOB, BOB, join(ALICE)), Ok(()));
            let refused = Err(AuthRejection::JoinNotAuthorised);
            assert_eq!(membership(&mut room, BOB, BOB, join(CAROL)), refused);
            assert_eq!(membership(&mut room, BOB, BOB, join("nobody")), refused);
            assert_eq!(membership(&mut room, BOB, BOB, json!({"membership": "join"})), refused);
            room.send(ALICE, "m.room.join_rules", Some(""), json!({"join_rule": "public"}))
                .unwrap();
            room.member(CAROL, CAROL, "join").unwrap();
            room.power(ALICE, alice_and(version, json!({"invite": 50}))).unwrap();
            room.join_rule("restricted");
            assert_eq!(membership(&mut room, BOB, BOB, join(CAROL)), refused);
        },
    );
}

#[test]
fn banned_user_cannot_knock() {
    // The join rule, the membership before, and the verdict from the version that has the rule on.
    let cases = [
        ("knock", "leave", Ok(())),
        ("knock", "knock", Ok(())),
        ("knock", "ban", Err(AuthRejection::UserBanned)),
        ("knock", "invite", Err(AuthRejection::NoNeedToKnock)),
        ("knock", "join", Err(AuthRejection::NoNeedToKnock)),
        ("public", "leave", Err(AuthRejection::KnockingNotAllowed)),
        ("invite", "leave", Err(AuthRejection::KnockingNotAllowed)),
        ("restricted", "leave", Err(AuthRejection::KnockingNotAllowed)),
    ];
    each_version(
        |version| version >= RoomVersion::V7,
        |version| {
            for (rule, before, expected) in cases.clone() {
                let mut room = room_with(version, rule, before);
                let verdict = membership(&mut room, BOB, BOB, json!({"membership": "knock"}));
                assert_eq!(verdict, expected, "{version} {rule} {before}");
            }
            let mut room = room_with(version, "knock_restricted", "leave");
            let verdict = membership(&mut room, BOB, BOB, json!({"membership": "knock"}));
            assert_eq!(verdict.is_ok(), version >= RoomVersion::V10);
        },
    );
    each_version(
        |version| version < RoomVersion::V7,
        |version| {
            let mut room = room_with(version, "knock", "leave");
            let verdict = membership(&mut room, BOB, BOB, json!({"membership": "knock"}));
            assert_eq!(verdict, Err(AuthRejection::UnknownMembership));
        },
    );
}

#[test]
fn invitation_needs_power_and_a_stranger() {
    each_version(all, |version| {
        let mut room = Room::public(version);
        let invite = json!({"membership": "invite"});
        assert_eq!(membership(&mut room, BOB, CAROL, invite.clone()), Ok(()));
        let from_outside = membership(&mut room, CAROL, "@dora:c.example", invite.clone());
        assert_eq!(from_outside, Err(AuthRejection::SenderNotInRoom));
        let joined = membership(&mut room, ALICE, BOB, invite.clone());
        assert_eq!(joined, Err(AuthRejection::TargetAlreadyJoined));
        room.member(ALICE, CAROL, "ban").unwrap();
        let banned = membership(&mut room, ALICE, CAROL, invite.clone());
        assert_eq!(banned, Err(AuthRejection::UserBanned));
        room.member(ALICE, CAROL, "leave").unwrap();
        room.power(ALICE, alice_and(version, json!({"invite": 1}))).unwrap();
        let weak = membership(&mut room, BOB, CAROL, invite);
        assert_eq!(weak, Err(AuthRejection::CannotInvite));
    });
}

/// Power levels with `content`, which also give Alice 100 where she may be named.
pub fn alice_and(version: RoomVersion, mut content: Value) -> Value {
    if version < RoomVersion::V12 {
        content["users"][ALICE] = json!(100);
    }
    content
}

#[test]
fn kicks_and_bans_go_downwards_only() {
    each_version(all, |version| {
        let levels = json!({"users": {BOB: 50, CAROL: 50, "@dora:a.example": 49}});
        let mut room = Room::public(version);
        room.member(CAROL, CAROL, "join").unwrap();
        room.power(ALICE, alice_and(version, levels)).unwrap();
        for (membership_set, refusal) in
            [("leave", AuthRejection::CannotKick), ("ban", AuthRejection::CannotBan)]
        {
            let content = json!({ "membership": membership_set });
            let mut by = |sender, target| membership(&mut room, sender, target, content.clone());
            assert_eq!(by(BOB, CAROL), Err(refusal.clone()));
            assert_eq!(by(BOB, ALICE), Err(refusal.clone()));
            assert_eq!(by(BOB, "@dora:a.example"), Ok(()));
            assert_eq!(by(ALICE, BOB), Ok(()));
            assert_eq!(by("@eve:e.example", BOB), Err(AuthRejection::SenderNotInRoom));
        }
    });
}

#[test]
fn unbanning_takes_the_levels_to_ban_and_to_kick() {
    each_version(all, |version| {
        let mut room = Room::public(version);
        room.member(ALICE, CAROL, "ban").unwrap();
        let unban = json!({"membership": "leave"});
        for (ban, kick, expected) in [
            (50, 50, Ok(())),
            (51, 50, Err(AuthRejection::CannotUnban)),
            (50, 51, Err(AuthRejection::CannotKick)),
        ] {
            let levels = json!({"ban": ban, "kick": kick, "users": {BOB: 50}});
            room.power(ALICE, alice_and(version, levels)).unwrap();
            assert_eq!(membership(&mut room, BOB, CAROL, unban.clone()), expected);
        }
        let own = membership(&mut room, CAROL, CAROL, unban);
        assert_eq!(own, Err(AuthRejection::NothingToLeave));
    });
}

#[test]
fn who_has_knocked_may_withdraw() {
    each_version(
        |version| version >= RoomVersion::V7,
        |version| {
            let mut room = room_with(version, "knock", "knock");
            assert_eq!(membership(&mut room, BOB, BOB, json!({"membership": "leave"})), Ok(()));
        },
    );
}

#[test]
fn member_events_must_be_whole() {
    each_version(all, |version| {
        let mut room = Room::public(version);
        let mut member =
            |state_key, content| verdict(&mut room, BOB, "m.room.member", state_key, content);
        let join = json!({"membership": "join"});
        assert_eq!(member(None, join.clone()), Err(AuthRejection::MemberStateKeyMissing));
        assert_eq!(member(Some("bob"), join), Err(AuthRejection::MemberStateKeyNotUser));
        assert_eq!(member(Some(BOB), json!({})), Err(AuthRejection::MembershipMissing));
        for odd in [json!("dance"), json!(1), json!(null), json!({})] {
            let content = json!({ "membership": odd });
            assert_eq!(member(Some(BOB), content), Err(AuthRejection::UnknownMembership));
        }
    });
}

#[test]
fn sending_needs_membership_and_power() {
    each_version(all, |version| {
        let mut room = Room::public(version);
        assert_eq!(room.message(CAROL).unwrap_err(), AuthRejection::SenderNotInRoom);
        assert!(room.message(BOB).is_ok());
        let low = AuthRejection::PowerTooLow { required: 50 };
        let topic = verdict(&mut room, BOB, "m.room.topic", Some(""), json!({}));
        assert_eq!(topic, Err(low));
        assert_eq!(verdict(&mut room, ALICE, "m.room.topic", Some(""), json!({})), Ok(()));
        let levels = json!({"events": {"m.room.topic": 0}, "events_default": 7});
        room.power(ALICE, alice_and(version, levels)).unwrap();
        assert_eq!(verdict(&mut room, BOB, "m.room.topic", Some(""), json!({})), Ok(()));
        let low = AuthRejection::PowerTooLow { required: 7 };
        assert_eq!(room.message(BOB).unwrap_err(), low);
    });
}

#[test]
fn state_keys_of_users_are_their_own() {
    each_version(all, |version| {
        let mut room = Room::public(version);
        let mut status = |sender, key| verdict(&mut room, sender, "x.status", Some(key), json!({}));
        assert_eq!(status(ALICE, ALICE), Ok(()));
        assert_eq!(status(ALICE, BOB), Err(AuthRejection::StateKeyOfAnotherUser));
        assert_eq!(status(ALICE, "@x"), Err(AuthRejection::StateKeyOfAnotherUser));
    });
}

#[test]
fn owned_state_is_for_its_owner_and_who_has_more_power() {
    for version in RoomVersion::UNSTABLE {
        let mut room = Room::public(version);
        room.power_of(&[(BOB, 50), (CAROL, 50)]);
        let mut status = |sender, key| verdict(&mut room, sender, "x.status", Some(key), json!({}));
        let (own, dave) = (format!("{BOB}_a:b_@c"), format!("{CAROL}_a"));
        let odd = format!("{BOB}:a:b");
        for key in [BOB, &own] {
            assert_eq!(status(BOB, key), Ok(()), "{key}");
            assert_eq!(status(ALICE, key), Ok(()), "{key}");
        }
        for key in [CAROL, &dave] {
            assert_eq!(status(BOB, key), Err(AuthRejection::StateKeyOfAnotherUser), "{key}");
        }
        for key in ["@x", "@x_y", &odd] {
            assert_eq!(status(ALICE, key), Err(AuthRejection::StateKeyOfNoUser), "{key}");
        }
        assert_eq!(status(BOB, "x"), Ok(()));
    }
}

#[test]
fn power_levels_must_be_well_formed() {
    let level = |name| Err(AuthRejection::BadPowerLevels(PowerLevelsError::BadLevel(name)));
    let map = |name| Err(AuthRejection::BadPowerLevels(PowerLevelsError::BadMap(name)));
    // The content, and the verdicts in version 5, 9 and 10 when the room has power levels already.
    let cases = [
        (json!({"ban": 50}), Ok(()), Ok(()), Ok(())),
        (json!({"ban": "50"}), Ok(()), Ok(()), level("ban")),
        (json!({"ban": " +0050 "}), Ok(()), Ok(()), level("ban")),
        (json!({"ban": "5_0"}), level("ban"), level("ban"), level("ban")),
        (json!({"ban": "50.5"}), level("ban"), level("ban"), level("ban")),
        (json!({"ban": ""}), level("ban"), level("ban"), level("ban")),
        (json!({"ban": null}), level("ban"), level("ban"), level("ban")),
        (json!({"events": {"x": "9"}}), Ok(()), Ok(()), map("events")),
        (json!({"events": []}), map("events"), map("events"), map("events")),
        (
            json!({"notifications": {"room": []}}),
            Ok(()),
            map("notifications"),
            map("notifications"),
        ),
        (json!({"users": {BOB: "9"}}), Ok(()), Ok(()), map("users")),
        (json!({"users": []}), map("users"), map("users"), map("users")),
        (
            json!({"users": {"bob": 1}}),
            Err(AuthRejection::PowerLevelOfNoUser),
            Err(AuthRejection::PowerLevelOfNoUser),
            Err(AuthRejection::PowerLevelOfNoUser),
        ),
    ];
    for (content, in_5, in_9, in_10) in cases {
        for (version, expected) in
            [(RoomVersion::V5, in_5), (RoomVersion::V9, in_9), (RoomVersion::V10, in_10)]
        {
            let mut room = Room::public(version);
            room.power_of(&[]);
            let verdict =
                verdict(&mut room, ALICE, "m.room.power_levels", Some(""), content.clone());
            assert_eq!(verdict, expected, "{version} {content}");
        }
    }
}

#[test]
fn floats_are_cut_in_old_rooms() {
    use hearth::protocol::power_levels::parse_level;
    let level = |text: &str, version: RoomVersion| {
        parse_level(&serde_json::from_str(text).unwrap(), version.rules())
    };
    assert_eq!(level("50.57", RoomVersion::V5), Some(50));
    assert_eq!(level("-50.57", RoomVersion::V5), Some(-50));
    assert_eq!(level("5.114698E4", RoomVersion::V1), Some(51146));
    assert_eq!(level("50.57", RoomVersion::V6), None);
}

#[test]
fn gigantic_levels_saturate_where_numbers_have_no_bounds() {
    use hearth::protocol::power_levels::parse_level;
    let huge = "9".repeat(400);
    // The level as JSON, and what it is in versions 1, 6 and 10. (Numbers beyond 2^53 do not get past the
    // format of versions 6 and later; see `strict_versions_refuse_odd_numbers_and_old_ones_keep_them`.)
    let cases = [
        ("9223372036854775807".to_owned(), [Some(i64::MAX), Some(i64::MAX), Some(i64::MAX)]),
        ("9223372036854775808".to_owned(), [Some(i64::MAX), None, None]),
        ("-1e300".to_owned(), [Some(i64::MIN), None, None]),
        ("\"9223372036854775808\"".to_owned(), [Some(i64::MAX), Some(i64::MAX), None]),
        (format!("\"{huge}\""), [Some(i64::MAX), Some(i64::MAX), None]),
        (format!("\" -{huge} \""), [Some(i64::MIN), Some(i64::MIN), None]),
        ("\"1e300\"".to_owned(), [None, None, None]),
    ];
    for (text, expected) in cases {
        let value: Value = serde_json::from_str(&text).unwrap();
        let versions = [RoomVersion::V1, RoomVersion::V6, RoomVersion::V10];
        assert_eq!(
            versions.map(|version| parse_level(&value, version.rules())),
            expected,
            "{text}"
        );
    }
    assert!(serde_json::from_str::<Value>(&huge).is_err(), "a number beyond binary64 is no JSON");
}

#[test]
fn levels_change_only_up_to_the_changers_own() {
    let above = |name: &str| Err(AuthRejection::LevelAboveSender(name.to_owned()));
    let not_below = |user: &str| Err(AuthRejection::UserNotBelowSender(user.to_owned()));
    // Bob has 50. What is changed from, what to, and the verdict.
    let cases = [
        (json!({}), json!({}), Ok(())),
        (json!({}), json!({"ban": 50}), Ok(())),
        (json!({}), json!({"ban": 51}), above("ban")),
        (json!({"ban": 51}), json!({}), above("ban")),
        (json!({"ban": 51}), json!({"ban": 50}), above("ban")),
        (json!({"ban": 51}), json!({"ban": 51}), Ok(())),
        (json!({}), json!({"events": {"x": 51}}), above("events.x")),
        (json!({"events": {"x": 51}}), json!({}), above("events.x")),
        (json!({"events": {"x": 50}}), json!({"events": {"x": 49}}), Ok(())),
        (json!({"users": {CAROL: 49}}), json!({"users": {CAROL: 50}}), Ok(())),
        (json!({"users": {CAROL: 49}}), json!({}), Ok(())),
        (json!({"users": {CAROL: 50}}), json!({"users": {CAROL: 49}}), not_below(CAROL)),
        (json!({"users": {CAROL: 50}}), json!({}), not_below(CAROL)),
        (json!({}), json!({"users": {CAROL: 51}}), above(&format!("users.{CAROL}"))),
        (json!({}), json!({"users": {CAROL: 50}}), Ok(())),
    ];
    each_version(all, |version| {
        for (before, after, expected) in &cases {
            let mut before = alice_and(version, before.clone());
            let mut after = alice_and(version, after.clone());
            before["users"][BOB] = json!(50);
            after["users"][BOB] = json!(50);
            let mut room = Room::public(version);
            room.power(ALICE, before.clone()).unwrap();
            let verdict = verdict(&mut room, BOB, "m.room.power_levels", Some(""), after.clone());
            assert_eq!(&verdict, expected, "{version} {before} {after}");
        }
        // One's own level may be lowered, but not raised.
        for (level, expected) in [(49, Ok(())), (51, above(&format!("users.{BOB}")))] {
            let mut room = Room::public(version);
            room.power_of(&[(BOB, 50)]);
            let content = alice_and(version, json!({"users": {BOB: level}}));
            let verdict = verdict(&mut room, BOB, "m.room.power_levels", Some(""), content);
            assert_eq!(verdict, expected);
        }
    });
}

#[test]
fn notification_levels_are_guarded_from_version_6_on() {
    each_version(all, |version| {
        let mut room = Room::public(version);
        room.power_of(&[(BOB, 50)]);
        let content =
            alice_and(version, json!({"users": {BOB: 50}, "notifications": {"room": 51}}));
        let verdict = verdict(&mut room, BOB, "m.room.power_levels", Some(""), content);
        let expected = if version >= RoomVersion::V6 {
            Err(AuthRejection::LevelAboveSender("notifications.room".to_owned()))
        } else {
            Ok(())
        };
        assert_eq!(verdict, expected);
    });
}

#[test]
fn creators_of_version_12_stand_above_all_levels() {
    let version = RoomVersion::V12;
    let mut room = Room::with_create(version, json!({"additional_creators": [BOB]}));
    room.member(ALICE, ALICE, "join").unwrap();
    room.join_rule("public");
    room.member(BOB, BOB, "join").unwrap();
    room.member(CAROL, CAROL, "join").unwrap();
    room.power(ALICE, json!({"users": {CAROL: 1i64 << 52}, "ban": 1i64 << 52})).unwrap();
    let named = room.power(ALICE, json!({"users": {ALICE: 100}})).unwrap_err();
    assert_eq!(named, AuthRejection::PowerLevelOfCreator);
    let named = room.power(ALICE, json!({"users": {BOB: 100}})).unwrap_err();
    assert_eq!(named, AuthRejection::PowerLevelOfCreator);
    let ban = json!({"membership": "ban"});
    let upwards = membership(&mut room, CAROL, ALICE, ban.clone());
    assert_eq!(upwards, Err(AuthRejection::CannotBan));
    let equal = membership(&mut room, BOB, ALICE, ban.clone());
    assert_eq!(equal, Err(AuthRejection::CannotBan));
    assert_eq!(membership(&mut room, BOB, CAROL, ban), Ok(()));
}

#[test]
fn redactions_are_judged_by_the_rules_of_versions_1_and_2_only() {
    each_version(all, |version| {
        let mut room = Room::public(version);
        let message = room.message(ALICE).unwrap();
        let mut draft = room.draft(BOB, "m.room.redaction", None, json!({}));
        draft.redacts = Some(message.event_id().to_owned());
        let event = room.seal(draft);
        let expected =
            if version <= RoomVersion::V2 { Err(AuthRejection::CannotRedact) } else { Ok(()) };
        assert_eq!(room.judge(&event), expected);
        let own = room.message(BOB).unwrap();
        let mut draft = room.draft(BOB, "m.room.redaction", None, json!({}));
        draft.redacts = Some(own.event_id().to_owned());
        let event = room.seal(draft);
        assert_eq!(room.judge(&event), Ok(()));
    });
}

#[test]
fn third_party_invitation_needs_the_identity_servers_signature() {
    each_version(all, |version| {
        let mut room = Room::public(version);
        let key = SigningKey::from_seed("0", &[9; 32]).unwrap();
        let content = json!({"display_name": "c…@example.org", "public_key": "bad",
            "public_keys": [{"public_key": key.public_key_base64()}]});
        room.send(ALICE, "m.room.third_party_invite", Some("token"), content).unwrap();
        let signed = |mxid: &str, token: &str| {
            let mut signed = json!({"mxid": mxid, "token": token, "sender": ALICE});
            key.sign_json(signed.as_object_mut().unwrap(), "id.example");
            signed
        };
        let invite = |signed: Value| {
            json!({"membership": "invite",
                "third_party_invite": {"display_name": "c", "signed": signed}})
        };
        let mut by = |sender, content| membership(&mut room, sender, CAROL, content);
        assert_eq!(by(ALICE, invite(signed(CAROL, "token"))), Ok(()));
        let other = Err(AuthRejection::ThirdPartyOfAnotherSender);
        assert_eq!(by(BOB, invite(signed(CAROL, "token"))), other);
        let for_another = Err(AuthRejection::ThirdPartyForAnotherUser);
        assert_eq!(by(ALICE, invite(signed(BOB, "token"))), for_another);
        let unknown = Err(AuthRejection::ThirdPartyUnknown);
        assert_eq!(by(ALICE, invite(signed(CAROL, "nekot"))), unknown);
        let mut forged = signed(CAROL, "token");
        forged["sender"] = json!(BOB);
        assert_eq!(by(ALICE, invite(forged)), Err(AuthRejection::ThirdPartySignatureInvalid));
        let malformed = Err(AuthRejection::ThirdPartyMalformed);
        assert_eq!(by(ALICE, invite(json!({"mxid": CAROL}))), malformed);
        assert_eq!(by(ALICE, invite(json!("signed"))), malformed);
        let unsigned = json!({"membership": "invite", "third_party_invite": null});
        assert_eq!(by(ALICE, unsigned), Err(AuthRejection::ThirdPartyUnsigned));
        room.member(ALICE, CAROL, "ban").unwrap();
        let banned = membership(&mut room, ALICE, CAROL, invite(signed(CAROL, "token")));
        assert_eq!(banned, Err(AuthRejection::UserBanned));
    });
}

/// The verdict on the authorisation events that `event` names, of which `rejected` was rejected.
fn receipt(room: &Room, event: &Event, rejected: Option<&Event>) -> Result<(), AuthRejection> {
    let is_rejected = |event: &Event| rejected.is_some_and(|r| r.event_id() == event.event_id());
    let create = &room.state.values().find(|event| event.kind() == "m.room.create").unwrap();
    let create = AuthEvent { event: create, rejected: is_rejected(create) };
    let auth_events = event.auth_events().map(|id| {
        let event = &room.events[id];
        AuthEvent { event, rejected: is_rejected(event) }
    });
    check_auth_events(event, room.rules(), Some(create), auth_events)
}

#[test]
fn auth_events_must_be_those_that_the_selection_names() {
    each_version(all, |version| {
        let mut room = Room::public(version);
        let old_name = room.send(ALICE, "m.room.name", Some(""), json!({"name": "a"})).unwrap();
        let message = room.message(BOB).unwrap();
        let event = room.make(BOB, "m.room.message", None, json!({}));
        assert_eq!(receipt(&room, &event, None), Ok(()));
        let with = |room: &mut Room, extra: &Event| {
            let mut draft = room.draft(BOB, "m.room.message", None, json!({}));
            draft.auth_events = event.auth_events().map(ToOwned::to_owned).collect();
            draft.auth_events.push(extra.event_id().to_owned());
            let event = room.seal(draft);
            receipt(room, &event, None)
        };
        let needless =
            |event: &Event| Err(AuthRejection::NeedlessAuthEvent(event.event_id().to_owned()));
        assert_eq!(with(&mut room, &old_name), needless(&old_name));
        assert_eq!(with(&mut room, &message), needless(&message));
        let member =
            room.state[&hearth::protocol::state_key::StateKey::new("m.room.member", BOB)].clone();
        let duplicate = AuthRejection::DuplicateAuthEvent(member.event_id().to_owned());
        assert_eq!(with(&mut room, &member), Err(duplicate));
        let rejected = AuthRejection::AuthEventRejected(member.event_id().to_owned());
        assert_eq!(receipt(&room, &event, Some(&member)), Err(rejected));
    });
}

#[test]
fn create_event_is_named_up_to_version_11_and_implied_in_12() {
    each_version(all, |version| {
        let mut room = Room::public(version);
        let create =
            room.state.values().find(|event| event.kind() == "m.room.create").unwrap().clone();
        let event = room.make(BOB, "m.room.message", None, json!({}));
        let names_create = event.auth_events().any(|id| id == create.event_id());
        assert_eq!(names_create, version != RoomVersion::V12);
        let mut draft = room.draft(BOB, "m.room.message", None, json!({}));
        draft.auth_events = event.auth_events().map(ToOwned::to_owned).collect();
        if names_create {
            draft.auth_events.retain(|id| id != create.event_id());
        } else {
            draft.auth_events.push(create.event_id().to_owned());
        }
        let wrong = room.seal(draft);
        let verdict = receipt(&room, &wrong, None);
        if names_create {
            assert_eq!(verdict, Err(AuthRejection::NoCreateInAuthEvents));
        } else {
            let id = create.event_id().to_owned();
            assert_eq!(verdict, Err(AuthRejection::NeedlessAuthEvent(id)));
            assert_eq!(receipt(&room, &event, Some(&create)), Err(AuthRejection::CreateRejected));
        }
    });
}
