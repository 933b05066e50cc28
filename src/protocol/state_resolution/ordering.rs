//! The two orders of version 2: reverse topological power ordering, and mainline ordering.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use ruma::{EventId, OwnedEventId};

use super::{Events, KnownEvent, Needs};
use crate::protocol::{
    power_levels::{PowerLevel, PowerLevels},
    room_version::RoomRules,
};

/// Compares events of the same generation: the greater power first, then the earlier, then the lesser ID.
type Rank<'a> = (Reverse<PowerLevel>, i64, &'a EventId);

/// Sorts the events of `full` that are `selected` by reverse topological power ordering.
///
/// An edge is an authorisation event that is itself in `selected`. (The text could be read as paths
/// through events outside; all known implementations look at edges.)
pub(super) fn sort_by_power(
    full: &[KnownEvent],
    selected: &[bool],
    edges: &[Vec<usize>],
    rules: &RoomRules,
    events: &Events<'_>,
) -> Result<Vec<usize>, Needs> {
    let mut levels = SenderLevels { rules, events, by_sources: HashMap::new() };
    let mut rank = |node: usize| -> Rank<'_> {
        let event = &full[node].event;
        (Reverse(levels.of_sender(&full[node])), event.origin_server_ts(), event.event_id())
    };
    let ranks: Vec<Option<Rank<'_>>> =
        (0..full.len()).map(|node| selected[node].then(|| rank(node))).collect();
    events.check_complete()?;

    let mut children: Vec<Vec<usize>> = vec![Vec::new(); full.len()];
    let mut waits_for: Vec<usize> = edges.iter().map(Vec::len).collect();
    let mut ready = BinaryHeap::new();
    for (node, rank) in ranks.iter().enumerate().filter(|(_, rank)| rank.is_some()) {
        edges[node].iter().for_each(|parent| children[*parent].push(node));
        if edges[node].is_empty() {
            ready.push(Reverse((rank, node)));
        }
    }
    let mut sorted = Vec::new();
    while let Some(Reverse((_, node))) = ready.pop() {
        sorted.push(node);
        for &child in &children[node] {
            waits_for[child] -= 1;
            if waits_for[child] == 0 {
                ready.push(Reverse((&ranks[child], child)));
            }
        }
    }
    Ok(sorted)
}

/// Sorts `nodes` (positions in `full`) by the mainline of `power`, the power levels that hold so far.
pub(super) fn sort_by_mainline(
    full: &[KnownEvent],
    nodes: impl Iterator<Item = usize>,
    power: Option<KnownEvent>,
    events: &Events<'_>,
) -> Result<Vec<usize>, Needs> {
    let mut mainline = Mainline::new(power, events);
    let mut ranked: Vec<_> = nodes
        .map(|node| {
            let event = &full[node].event;
            let position = Reverse(mainline.position(&full[node]));
            ((position, event.origin_server_ts(), event.event_id()), node)
        })
        .collect();
    events.check_complete()?;
    ranked.sort_unstable();
    Ok(ranked.into_iter().map(|(_, node)| node).collect())
}

/// The power of senders by the power levels and the create event that their events cite, each pair read
/// once. (A room has one create event, unless its creator's server forges another.)
struct SenderLevels<'a> {
    rules: &'a RoomRules,
    events: &'a Events<'a>,
    by_sources: HashMap<[Option<OwnedEventId>; 2], PowerLevels>,
}

impl SenderLevels<'_> {
    fn of_sender(&mut self, known: &KnownEvent) -> PowerLevel {
        let event = &known.event;
        let power = self.events.find_auth_event(event, "m.room.power_levels");
        let create = self.events.find_create(event, self.rules);
        let id = |known: &KnownEvent| known.event.event_id().to_owned();
        let ids = [power.as_ref().map(id), create.as_ref().map(id)];
        let levels = self.by_sources.entry(ids).or_insert_with(|| {
            PowerLevels::from_events(
                create.as_ref().map(|create| &*create.event),
                power.as_ref().map(|power| &*power.event),
                self.rules,
            )
        });
        levels.user(event.sender())
    }
}

/// A line of power levels, each in the authorisation events of the one before, and how far from its
/// start other power levels branch off.
struct Mainline<'a> {
    events: &'a Events<'a>,
    /// Positions of power-level events, on the mainline or leading to it.
    positions: HashMap<OwnedEventId, usize>,
}

/// The position of what never meets the mainline: greater than any.
const OFF_MAINLINE: usize = usize::MAX;

impl<'a> Mainline<'a> {
    fn new(power: Option<KnownEvent>, events: &'a Events<'a>) -> Self {
        let mut mainline = Self { events, positions: HashMap::new() };
        let mut next = power;
        while let Some(known) = next {
            let position = mainline.positions.len();
            let id = known.event.event_id().to_owned();
            if mainline.positions.insert(id, position).is_some() {
                break;
            }
            next = events.find_auth_event(&known.event, "m.room.power_levels");
        }
        mainline
    }

    /// The mainline position of an event. Every power-level event is walked over only once.
    fn position(&mut self, known: &KnownEvent) -> usize {
        let mut walked = Vec::new();
        let mut next = self.events.find_auth_event(&known.event, "m.room.power_levels");
        let position = loop {
            let Some(power) = next else {
                break OFF_MAINLINE;
            };
            let id = power.event.event_id();
            if let Some(position) = self.positions.get(id) {
                break *position;
            }
            // Noted at once, so that a cycle ends here; corrected below.
            self.positions.insert(id.to_owned(), OFF_MAINLINE);
            walked.push(id.to_owned());
            next = self.events.find_auth_event(&power.event, "m.room.power_levels");
        };
        for id in walked {
            self.positions.insert(id, position);
        }
        position
    }
}
