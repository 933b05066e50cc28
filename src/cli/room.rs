//! `hearth room list | show | check`: what is known of rooms, and whether it agrees with their events.

use clap::Subcommand;
use ruma::OwnedRoomId;
use serde::{Deserialize, Serialize};

use super::{
    CommandError,
    operator::{Outcome, Request, ask},
    user::block_on,
};
use crate::{
    rooms::{Room, RoomReport, Rooms},
    storage::{RoomNid, StorageError},
};

/// Rooms in one answer.
const PAGE_ROOMS_MAX: usize = 200;

#[derive(Debug, Subcommand)]
pub(super) enum RoomCommand {
    /// List all rooms that this server knows
    List,
    /// Tell where a room stands: the ends of its graph, its state, and what was not accepted and why
    Show {
        /// Such as !abc:example.org
        room: OwnedRoomId,
    },
    /// Compare what was derived from a room's events with the events
    Check {
        /// Such as !abc:example.org
        room: OwnedRoomId,
    },
}

/// A question about rooms.
#[derive(Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(super) enum RoomRequest {
    /// The rooms behind the one with this number.
    List {
        after: i64,
    },
    Show {
        room: OwnedRoomId,
    },
    Check {
        room: OwnedRoomId,
    },
}

/// What can be said: lines for people, and where the next page begins.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct RoomLines {
    pub lines: Vec<String>,
    pub next: Option<i64>,
    /// Whether something is wrong.
    pub has_problems: bool,
}

pub(super) fn run(
    config: &crate::config::Config,
    command: RoomCommand,
) -> Result<(), CommandError> {
    block_on(async {
        let mut request = match command {
            RoomCommand::List => RoomRequest::List { after: 0 },
            RoomCommand::Show { room } => RoomRequest::Show { room },
            RoomCommand::Check { room } => RoomRequest::Check { room },
        };
        loop {
            let answer = match ask(config, Request::Room { request }).await? {
                Outcome::Room(answer) => answer,
                Outcome::Refused(reason) => return Err(CommandError::Refused(reason)),
                _ => return Err(CommandError::OtherVersion),
            };
            answer.lines.iter().for_each(|line| println!("{line}"));
            match answer.next {
                Some(after) => request = RoomRequest::List { after },
                None if answer.has_problems => {
                    return Err(CommandError::Refused(
                        "the room is not as it should be".to_owned(),
                    ));
                }
                None => return Ok(()),
            }
        }
    })
}

/// Answers a question. None when there is no such room.
pub(super) async fn answer(
    rooms: &Rooms,
    request: RoomRequest,
) -> Result<Option<RoomLines>, StorageError> {
    let (room, checks) = match request {
        RoomRequest::List { after } => return list(rooms, after).await.map(Some),
        RoomRequest::Show { room } => (room, false),
        RoomRequest::Check { room } => (room, true),
    };
    let Some(room) = rooms.find(&room).await? else {
        return Ok(None);
    };
    if checks {
        let problems = rooms.find_differences(&room).await?;
        let has_problems = !problems.is_empty();
        let lines = match has_problems {
            true => problems,
            false => vec![format!("{} is as it should be.", room.room_id)],
        };
        return Ok(Some(RoomLines { lines, next: None, has_problems }));
    }
    let report = rooms.report(&room).await?;
    Ok(Some(RoomLines { lines: describe(&room, &report), ..RoomLines::default() }))
}

async fn list(rooms: &Rooms, after: i64) -> Result<RoomLines, StorageError> {
    let page = rooms.list_rooms(RoomNid(after), PAGE_ROOMS_MAX).await?;
    let next = page.last().filter(|_| page.len() == PAGE_ROOMS_MAX).map(|room| room.nid.0);
    let line = |room: &std::sync::Arc<Room>| {
        let (head, version) = (room.head(), room.rules.version);
        format!("{}  version {version}, {} joined", room.room_id, head.joined_count)
    };
    Ok(RoomLines { lines: page.iter().map(line).collect(), next, has_problems: false })
}

fn describe(room: &Room, report: &RoomReport) -> Vec<String> {
    let mut lines = vec![
        format!("{}, version {}", room.room_id, room.rules.version),
        format!("{} joined, {} invited", report.joined_count, report.invited_count),
        format!(
            "The state has {} entries, in {} rows of {} bytes.",
            report.state_entries, report.snapshot_rows, report.snapshot_bytes
        ),
        format!("{} events wait for others.", report.waiting_count),
    ];
    lines.extend(report.extremities.iter().map(|id| format!("ends at {id}")));
    lines.extend(report.gaps.iter().map(|id| format!("begins behind {id}")));
    let verdicts = report.verdicts.iter();
    lines.extend(verdicts.map(|(id, reason)| format!("not accepted: {id}: {reason}")));
    lines
}
