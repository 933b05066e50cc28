//! A room that takes the place of another one: the new one begins and the old one ends in one commit, so that
//! nobody ever finds one without the other. Not for what goes along into the new room (`workflows::upgrade`).

use std::sync::Arc;

use ruma::{OwnedRoomId, RoomId};

use super::{
    append::{ATTEMPTS_MAX, AppendError, EventRequest, ExtraRows},
    attempt::{Attempt, AttemptError, Known, Missing},
    create::{CreateRoomError, NewRoom},
    policy::ROUNDS_MAX,
    registry::Rooms,
    room::{Head, Room},
};
use crate::{
    protocol::{event::Event, policy_server::PolicyServer, room_version::RoomRules},
    storage::{CommitTicket, RoomNid, StorageError, WritePermit, WriteTx},
};

/// Why a room was not replaced. Nothing of it is stored.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// The new room cannot begin like this.
    #[error(transparent)]
    New(CreateRoomError),
    /// The old room does not take its last events.
    #[error(transparent)]
    Old(AppendError),
}

/// The last events of the old room, which name the new one.
pub type Closing<'a> = &'a (dyn Fn(&RoomId) -> Vec<EventRequest> + Send + Sync);

/// What is to happen.
struct Plan<'a> {
    rules: &'static RoomRules,
    /// None where the create event implies it.
    room_id: Option<OwnedRoomId>,
    opening: Vec<EventRequest>,
    closing: Closing<'a>,
    extra: ExtraRows<'a>,
}

/// What both rooms need to know.
struct Both {
    new: Known,
    old: Known,
}

/// The events of a plan, made before: the last ones bear the signature of a policy server.
struct Made {
    opening: Vec<Arc<Event>>,
    closing: Vec<Arc<Event>>,
}

/// What is missing, and for which room.
enum Lack {
    New(Missing),
    Old(Missing),
    Failed(ReplaceError),
}

impl From<StorageError> for ReplaceError {
    fn from(error: StorageError) -> Self {
        Self::Old(error.into())
    }
}

impl Rooms {
    /// Makes the new room and appends `closing` to the old one, with `extra` rows (which get the number of
    /// the new room); returns when all of it is durable.
    pub async fn replace(
        &self,
        old: &Arc<Room>,
        new: &NewRoom,
        closing: Closing<'_>,
        extra: ExtraRows<'_>,
    ) -> Result<Arc<Room>, ReplaceError> {
        let (rules, opening) = (new.version.rules(), new.list_events(None));
        let plan = Plan { rules, room_id: self.new_room_id(rules), opening, closing, extra };
        // Which keys the last events need does not depend on the ID that they name.
        let like_closing = closing(plan.room_id.as_deref().unwrap_or(&old.room_id));
        let known_old = self.prepare(Some(old), &like_closing, old.rules).await;
        let mut known = Both {
            new: self.prepare(None, &plan.opening, rules).await.map_err(failed_new)?,
            old: known_old.map_err(ReplaceError::Old)?,
        };
        let Some(policy) = self.find_policy_server(old).await? else {
            return self.carry_out(old, &plan, &mut known, None).await;
        };
        // So that events of this server do not overtake each other.
        let _alone = old.asking.lock().await;
        for _ in 0..ROUNDS_MAX {
            let made = self.make_both(old, &plan, &mut known, &policy).await?;
            match self.carry_out(old, &plan, &mut known, Some(&made)).await {
                Err(ReplaceError::Old(AppendError::Overtaken)) => {}
                done => return done,
            }
        }
        Err(ReplaceError::Old(AppendError::Contended))
    }

    /// Makes the events of both rooms, and has the policy server of the old one sign its last ones.
    async fn make_both(
        &self,
        old: &Arc<Room>,
        plan: &Plan<'_>,
        known: &mut Both,
        policy: &PolicyServer,
    ) -> Result<Made, ReplaceError> {
        for _ in 0..ATTEMPTS_MAX {
            let made = {
                let room_id = plan.room_id.clone();
                let mut attempt = Attempt::new_room(&self.0, plan.rules, room_id, &known.new);
                let made = attempt.add_all(&plan.opening);
                made.map(|()| attempt.events.iter().map(|new| Arc::clone(&new.event)).collect())
            };
            match made {
                Ok(opening) => {
                    let opening: Vec<Arc<Event>> = opening;
                    let first = opening.first().ok_or(AppendError::Contended);
                    let requests = (plan.closing)(first.map_err(ReplaceError::Old)?.room_id());
                    let closing = self.make_signed(old, &requests, &mut known.old, policy).await;
                    return Ok(Made { opening, closing: closing.map_err(ReplaceError::Old)? });
                }
                Err(AttemptError::Missing(missing)) => {
                    let fetched = self.fetch_for_new(missing, &mut known.new).await;
                    fetched.map_err(failed_new)?;
                }
                Err(AttemptError::Failed(error)) => return Err(failed_new(error)),
            }
        }
        Err(ReplaceError::Old(AppendError::Contended))
    }

    async fn carry_out(
        &self,
        old: &Arc<Room>,
        plan: &Plan<'_>,
        known: &mut Both,
        made: Option<&Made>,
    ) -> Result<Arc<Room>, ReplaceError> {
        for _ in 0..ATTEMPTS_MAX {
            let permit = self.0.writer.reserve().await?;
            let lack = match self.submit_both(permit, old, plan, (known, made)) {
                Ok((ticket, room)) => {
                    ticket.committed().await?;
                    return Ok(room);
                }
                Err(lack) => lack,
            };
            match lack {
                Lack::Failed(error) => return Err(error),
                Lack::Old(missing) => {
                    let fetched = self.fetch(old, missing, &mut known.old).await;
                    fetched.map_err(ReplaceError::Old)?;
                }
                Lack::New(missing) => {
                    let fetched = self.fetch_for_new(missing, &mut known.new).await;
                    fetched.map_err(failed_new)?;
                }
            }
        }
        Err(ReplaceError::Old(AppendError::Contended))
    }

    /// Begins the new room, ends the old one under its lock, and hands both to the writer as one job.
    fn submit_both(
        &self,
        permit: WritePermit<'_>,
        old: &Arc<Room>,
        plan: &Plan<'_>,
        (known, made): (&Both, Option<&Made>),
    ) -> Result<(CommitTicket, Arc<Room>), Lack> {
        let engine = &self.0;
        let room_id = plan.room_id.clone();
        let mut opening = Attempt::new_room(engine, plan.rules, room_id, &known.new);
        add(&mut opening, &plan.opening, made.map(|made| &*made.opening)).map_err(lack_new)?;
        let contended = || Lack::Failed(ReplaceError::Old(AppendError::Contended));
        let room = opening.begin_room().ok_or_else(contended)?;
        let closing = (plan.closing)(&room.room_id);
        let mut speculative = old.speculative.lock();
        let mut ending = Attempt::new(engine, old, Head::clone(&speculative), &known.old);
        add(&mut ending, &closing, made.map(|made| &*made.closing)).map_err(lack_old)?;
        let mut tx = opening.finish_new(&room, None);
        let of_new = |tx: &mut WriteTx, _: RoomNid| (plan.extra)(tx, room.nid);
        let (head, _, rest) = ending.finish(old, Some(&of_new));
        tx.absorb(rest);
        *speculative = head;
        Ok((permit.submit(tx), room))
    }
}

fn add(
    attempt: &mut Attempt<'_>,
    requests: &[EventRequest],
    made: Option<&[Arc<Event>]>,
) -> Result<(), AttemptError> {
    match made {
        Some(made) => attempt.add_made(requests, made),
        None => attempt.add_all(requests),
    }
}

fn failed_new(error: AppendError) -> ReplaceError {
    ReplaceError::New(error.into())
}

fn lack_new(error: AttemptError) -> Lack {
    match error {
        AttemptError::Missing(missing) => Lack::New(missing),
        AttemptError::Failed(error) => Lack::Failed(failed_new(error)),
    }
}

fn lack_old(error: AttemptError) -> Lack {
    match error {
        AttemptError::Missing(missing) => Lack::Old(missing),
        AttemptError::Failed(error) => Lack::Failed(ReplaceError::Old(error)),
    }
}
