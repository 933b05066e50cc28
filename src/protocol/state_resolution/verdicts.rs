//! What resolutions remember of each other: an event that the rules allow by certain others is always allowed by
//! these. Forks that grow are resolved again and again, each time with one event more.

use ruma::OwnedEventId;

/// An event, and the events by which it is judged: those of the keys that the rules look at, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Case {
    pub event: OwnedEventId,
    pub by: Vec<Option<OwnedEventId>>,
}

/// Keeps whether events are allowed, for as long as it likes. May serve rooms of all versions: an event is in one
/// room only, which has one version. An event that is redacted may be judged otherwise, and must be forgotten.
pub trait Verdicts {
    fn find(&self, case: &Case) -> Option<bool>;
    fn keep(&self, case: Case, is_allowed: bool);
}

/// Remembers nothing.
pub struct NoVerdicts;

impl Verdicts for NoVerdicts {
    fn find(&self, _: &Case) -> Option<bool> {
        None
    }

    fn keep(&self, _: Case, _: bool) {}
}
