//! `hearth room list | show | check | rebuild`: what is known of rooms, and whether it agrees with their events.
//! Checking and mending all rooms, with what is shown meanwhile, is in `room_care`.

use clap::Subcommand;
use ruma::OwnedRoomId;
use serde::{Deserialize, Serialize};

use super::{
    CommandError,
    operator::{Outcome, Request, ask},
    room_care,
    user::block_on,
};
use crate::{
    rooms::{Room, RoomReport, Rooms},
    storage::{RoomNid, StorageError, rooms::RoomRow},
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
    /// Compare what was derived from the events of rooms with the events
    Check {
        /// Such as !abc:example.org [default: all rooms]
        room: Option<OwnedRoomId>,
    },
    /// Derive everything anew from the events of rooms and mend what differs. Stop the server first
    ///
    /// A room is mended as a whole or not at all, so this may be interrupted and repeated.
    Rebuild {
        /// Such as !abc:example.org
        #[arg(required_unless_present = "all")]
        room: Option<OwnedRoomId>,
        /// All rooms
        #[arg(long, conflicts_with = "room")]
        all: bool,
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
    /// The IDs of the rooms behind the one with this number.
    Ids {
        after: i64,
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
            RoomCommand::Check { room } => return room_care::check(config, room).await,
            RoomCommand::Rebuild { room, .. } => return room_care::rebuild(config, room).await,
        };
        loop {
            let answer = ask_rooms(config, request).await?;
            answer.lines.iter().for_each(|line| println!("{line}"));
            match answer.next {
                Some(after) => request = RoomRequest::List { after },
                None => return Ok(()),
            }
        }
    })
}

/// Asks the running server, or one built for the occasion.
pub(super) async fn ask_rooms(
    config: &crate::config::Config,
    request: RoomRequest,
) -> Result<RoomLines, CommandError> {
    match ask(config, Request::Room { request }).await? {
        Outcome::Room(answer) => Ok(answer),
        Outcome::Refused(reason) => Err(CommandError::Refused(reason)),
        _ => Err(CommandError::OtherVersion),
    }
}

/// Answers a question. None when there is no such room.
pub(super) async fn answer(
    rooms: &Rooms,
    request: RoomRequest,
) -> Result<Option<RoomLines>, StorageError> {
    let room = match request {
        RoomRequest::List { after } => return list(rooms, after, describe_shortly).await.map(Some),
        RoomRequest::Ids { after } => {
            return list(rooms, after, |row| row.room_id.clone()).await.map(Some);
        }
        RoomRequest::Check { room } => {
            let problems = rooms.check_room(&room, &|_, _| ()).await?;
            return Ok(problems.map(|lines| RoomLines {
                has_problems: !lines.is_empty(),
                lines,
                next: None,
            }));
        }
        RoomRequest::Show { room } => room,
    };
    let Some(room) = rooms.find(&room).await? else {
        return Ok(None);
    };
    let report = rooms.report(&room).await?;
    Ok(Some(RoomLines { lines: describe(&room, &report), ..RoomLines::default() }))
}

async fn list(
    rooms: &Rooms,
    after: i64,
    line: fn(&RoomRow) -> String,
) -> Result<RoomLines, StorageError> {
    let page = rooms.list_rooms(RoomNid(after), PAGE_ROOMS_MAX).await?;
    let next = page.last().filter(|_| page.len() == PAGE_ROOMS_MAX).map(|row| row.nid.0);
    Ok(RoomLines { lines: page.iter().map(line).collect(), next, has_problems: false })
}

fn describe_shortly(row: &RoomRow) -> String {
    format!("{}  version {}, {} joined", row.room_id, row.version, row.joined_count)
}

fn describe(room: &Room, report: &RoomReport) -> Vec<String> {
    let mut lines = vec![
        format!("{}, version {}", room.room_id, room.rules.version),
        format!("{} joined, {} invited", report.joined_count, report.invited_count),
        format!(
            "The state has {} entries, in {} rows of {} bytes.",
            report.state_entries, report.snapshot_rows, report.snapshot_bytes
        ),
        format!("The room has forked or been merged {} times.", report.fork_count),
        format!("{} events wait for others.", report.waiting_count),
    ];
    lines.extend(report.extremities.iter().map(|id| format!("ends at {id}")));
    lines.extend(report.gaps.iter().map(|id| format!("begins behind {id}")));
    let verdicts = report.verdicts.iter();
    lines.extend(verdicts.map(|(id, reason)| format!("not accepted: {id}: {reason}")));
    lines
}
