//! `hearth room check` and `hearth room rebuild`: one room after the other, with bars that show how far the work has
//! got. What is compared and mended is the room engine's business.

use indicatif::{ProgressBar, ProgressStyle};
use ruma::OwnedRoomId;

use super::{
    CommandError,
    operator::socket_path,
    room::{RoomRequest, ask_rooms},
};
use crate::{
    app::{StartError, StoppedServer},
    clock::Clock,
    config::Config,
    storage::{RoomNid, StorageError},
};

/// Rooms listed at once.
const PAGE_ROOMS_MAX: usize = 200;

/// What the rooms turned out to be.
#[derive(Default)]
struct Tally {
    rooms: usize,
    with_differences: usize,
    unreadable: usize,
}

impl Tally {
    /// Prints what came of one room.
    fn note(&mut self, room: &str, outcome: Result<Vec<String>, String>) {
        self.rooms += 1;
        match outcome {
            Ok(sentences) => {
                self.with_differences += usize::from(!sentences.is_empty());
                sentences.iter().for_each(|sentence| println!("{room}: {sentence}"));
            }
            Err(reason) => {
                self.unreadable += 1;
                println!("{room}: {reason}");
            }
        }
    }

    fn conclude_check(&self) -> Result<(), CommandError> {
        let wrong = self.with_differences + self.unreadable;
        match (wrong, self.rooms) {
            (0, 1) => println!("The room is as it should be."),
            (0, rooms) => println!("All {rooms} rooms are as they should be."),
            (wrong, rooms) => {
                return Err(CommandError::Refused(format!(
                    "{wrong} of {rooms} rooms are not as they should be; \
                     stop the server and run `hearth room rebuild`"
                )));
            }
        }
        Ok(())
    }

    fn conclude_rebuild(&self) -> Result<(), CommandError> {
        println!("{} of {} rooms were mended.", self.with_differences, self.rooms);
        match self.unreadable {
            0 => Ok(()),
            count => Err(CommandError::Refused(format!(
                "{count} rooms cannot be mended: what they are derived from is damaged; \
                 restore a backup"
            ))),
        }
    }
}

/// Compares one room or all with their events, whether the server runs or not.
pub(super) async fn check(config: &Config, room: Option<OwnedRoomId>) -> Result<(), CommandError> {
    let server = match StoppedServer::open(config, Clock::real()).await {
        Ok(server) => server,
        Err(StartError::DataDirInUse { .. }) => return check_running(config, room).await,
        Err(error) => return Err(error.into()),
    };
    let tally = for_each_room(&server, room, async |room, progress| {
        server.rooms.check_room(room, progress).await
    });
    let tally = tally.await;
    server.close().await;
    tally?.conclude_check()
}

/// Mends one room or all. Refuses while a server uses the data.
pub(super) async fn rebuild(
    config: &Config,
    room: Option<OwnedRoomId>,
) -> Result<(), CommandError> {
    let server = match StoppedServer::open(config, Clock::real()).await {
        Ok(server) => server,
        Err(StartError::DataDirInUse { .. }) => {
            return Err(CommandError::Refused(
                "the server is running; stop it first, rooms are mended while nobody uses them"
                    .to_owned(),
            ));
        }
        Err(error) => return Err(error.into()),
    };
    let tally = for_each_room(&server, room, async |room, progress| {
        server.rooms.rebuild_room(room, progress).await
    });
    let tally = tally.await;
    server.close().await;
    tally?.conclude_rebuild()
}

async fn for_each_room(
    server: &StoppedServer,
    room: Option<OwnedRoomId>,
    work: impl AsyncFn(
        &OwnedRoomId,
        crate::rooms::Progress<'_>,
    ) -> Result<Option<Vec<String>>, StorageError>,
) -> Result<Tally, CommandError> {
    let mut tally = Tally::default();
    let bar = events_bar();
    let look = async |room: &OwnedRoomId| {
        bar.set_message(room.to_string());
        let progress = |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        };
        match work(room, &progress).await {
            Ok(Some(sentences)) => Ok(Ok(sentences)),
            Ok(None) => Err(CommandError::Refused("this server knows no such room".to_owned())),
            Err(StorageError::Damaged(reason)) => Ok(Err(reason)),
            Err(error) => Err(StartError::from(error).into()),
        }
    };
    if let Some(room) = room {
        let outcome = look(&room).await?;
        bar.finish_and_clear();
        tally.note(room.as_str(), outcome);
        return Ok(tally);
    }
    let mut after = RoomNid(0);
    loop {
        let page =
            server.rooms.list_rooms(after, PAGE_ROOMS_MAX).await.map_err(StartError::from)?;
        let Some(last) = page.last() else {
            bar.finish_and_clear();
            return Ok(tally);
        };
        after = last.nid;
        for row in &page {
            let outcome = match OwnedRoomId::try_from(row.room_id.as_str()) {
                Ok(room) => look(&room).await?,
                Err(_) => Err("this is no ID of a room".to_owned()),
            };
            bar.suspend(|| tally.note(&row.room_id, outcome));
        }
    }
}

/// The same through the server that runs, which knows what is under way.
async fn check_running(config: &Config, room: Option<OwnedRoomId>) -> Result<(), CommandError> {
    if !socket_path(config).exists() {
        return Err(CommandError::Unreachable(socket_path(config)));
    }
    let mut rooms: Vec<String> = room.iter().map(ToString::to_string).collect();
    let mut next = room.is_none().then_some(0);
    while let Some(after) = next {
        let page = ask_rooms(config, RoomRequest::Ids { after }).await?;
        rooms.extend(page.lines);
        next = page.next;
    }
    let mut tally = Tally::default();
    let bar = ProgressBar::new(rooms.len() as u64).with_style(style("{pos}/{len} rooms"));
    for id in rooms {
        let outcome = match OwnedRoomId::try_from(id.as_str()) {
            Ok(room) => Ok(ask_rooms(config, RoomRequest::Check { room }).await?.lines),
            Err(_) => Err("this is no ID of a room".to_owned()),
        };
        bar.inc(1);
        bar.suspend(|| tally.note(&id, outcome));
    }
    bar.finish_and_clear();
    tally.conclude_check()
}

/// Shown on a terminal only.
fn events_bar() -> ProgressBar {
    ProgressBar::new(0).with_style(style("{pos}/{len} events  {wide_msg}"))
}

fn style(counts: &str) -> ProgressStyle {
    let template = format!("[{{bar:30}}] {counts}");
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
