//! Answers that hold any number of events, written step by step, so that the largest room takes no more
//! memory than a small one. Not for which events those are.

use std::{collections::VecDeque, io, sync::Arc};

use futures_util::{Stream, stream};

use crate::{
    rooms::{Room, Rooms},
    storage::EventNid,
};

/// Events that are loaded and written together.
const STEP: usize = 200;

/// A JSON text with lists of events in it.
pub struct EventsAnswer {
    rooms: Rooms,
    room: Arc<Room>,
    parts: VecDeque<Part>,
}

enum Part {
    Text(String),
    /// A list in brackets, of which so many have been written.
    Events(Vec<EventNid>, usize),
}

impl EventsAnswer {
    pub fn new(rooms: &Rooms, room: &Arc<Room>) -> Self {
        Self { rooms: rooms.clone(), room: Arc::clone(room), parts: VecDeque::new() }
    }

    /// Goes on with a text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.parts.push_back(Part::Text(text.into()));
        self
    }

    /// Goes on with a list of events of the room.
    #[must_use]
    pub fn events(mut self, events: Vec<EventNid>) -> Self {
        self.parts.push_back(Part::Events(events, 0));
        self
    }

    /// Puts a text before all of it.
    #[must_use]
    pub fn after(mut self, text: &str) -> Self {
        self.parts.push_front(Part::Text(text.to_owned()));
        self
    }

    /// The text in pieces. Ends with an error when the store fails.
    pub fn into_chunks(self) -> impl Stream<Item = io::Result<String>> + Send {
        stream::try_unfold(self, |mut answer| async move {
            let chunk = answer.write_next().await?;
            Ok(chunk.map(|chunk| (chunk, answer)))
        })
    }

    async fn write_next(&mut self) -> io::Result<Option<String>> {
        match self.parts.pop_front() {
            None => Ok(None),
            Some(Part::Text(text)) => Ok(Some(text)),
            Some(Part::Events(events, written)) => self.write_step(events, written).await.map(Some),
        }
    }

    async fn write_step(&mut self, events: Vec<EventNid>, written: usize) -> io::Result<String> {
        let end = (written + STEP).min(events.len());
        let step = self.rooms.events().load(self.room.facts(), &events[written..end]).await;
        let step = step.map_err(|error| {
            tracing::error!(%error, "an answer broke off");
            io::Error::other("the store failed")
        })?;
        let size: usize = step.iter().map(|event| event.event.json().len() + 1).sum();
        let mut text = String::with_capacity(size + 2);
        for (number, event) in step.iter().enumerate() {
            text.push(if written + number == 0 { '[' } else { ',' });
            text.push_str(event.event.json());
        }
        if events.is_empty() {
            text.push('[');
        }
        match end < events.len() {
            true => self.parts.push_front(Part::Events(events, end)),
            false => text.push(']'),
        }
        Ok(text)
    }
}
