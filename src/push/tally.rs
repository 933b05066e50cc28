//! Unread counts by subtraction: what a room's events do by default, less where that is not so
//! for everybody (exceptions) or for one user (deviations, quiet ranges). Pure; see `counts`.

use std::collections::BTreeMap;

/// The name of the main timeline where threads are named (client-server API, "Threading").
pub const MAIN: &str = "main";

/// Counts of one room or thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub notifications: i64,
    pub highlights: i64,
}

/// Counts of a room, by thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnreadCounts {
    pub main: Count,
    /// By thread root; threads without unread notifications are left out.
    pub threads: Vec<(String, Count)>,
}

/// A place in a room: its order, and how many events up to it notify by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub ordering: i64,
    pub ordinal: i64,
}

/// Up to where a user has read.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// All of the room.
    pub all: Place,
    /// The main timeline.
    pub main: Place,
    pub threads: Vec<(Box<str>, i64)>,
}

/// An event for which ordinals do not say all. Without `thread` it is of the main timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    pub ordering: i64,
    pub thread: Option<Box<str>>,
    /// Whether the ordinal counts it.
    pub counted: bool,
    pub notifies: bool,
    pub highlights: bool,
}

/// What an event adds, for one user, to what it does by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    pub ordering: i64,
    pub thread: Option<Box<str>>,
    pub notify_delta: i64,
    pub highlight_delta: i64,
}

/// From which event to which (that one excluded; None: for now) defaults do not hold for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuietRange {
    /// With the ordinal before the event.
    pub from: Place,
    pub to: Option<Place>,
}

/// What one user makes of a room.
#[derive(Clone, Debug, Default)]
pub struct UserRoomCounts {
    pub marks: Marks,
    /// In the order of the room.
    pub deviations: Vec<Deviation>,
    pub quiet: Vec<QuietRange>,
    /// The latest position at which a receipt moved a mark, or a change of whom the user ignores had
    /// events counted again.
    pub changed_at: i64,
}

impl Count {
    /// As `unread_notifications` has it.
    pub fn write_json(&self, out: &mut String) {
        use std::fmt::Write;
        let (highlights, notifications) = (self.highlights, self.notifications);
        write!(out, "{{\"highlight_count\":{highlights},\"notification_count\":{notifications}}}")
            .expect("writing to a String cannot fail");
    }

    fn is_zero(self) -> bool {
        self == Self::default()
    }

    fn add(&mut self, notifications: i64, highlights: i64) {
        self.notifications += notifications;
        self.highlights += highlights;
    }

    fn at_least_zero(self) -> Self {
        let highlights = self.highlights.max(0);
        Self { notifications: self.notifications.max(highlights), highlights }
    }
}

impl UnreadCounts {
    /// The counts of the main timeline and of each thread, or of the whole room and no threads.
    pub fn split(self, by_thread: bool) -> (Count, Vec<(String, Count)>) {
        if by_thread {
            return (self.main, self.threads);
        }
        let mut total = self.main;
        self.threads.iter().for_each(|(_, count)| total.add(count.notifications, count.highlights));
        (total, Vec::new())
    }
}

impl Marks {
    /// Moves a mark ahead; false when it is there already. `thread` is empty, `main` or a root.
    pub fn advance(&mut self, thread: &str, place: Place) -> bool {
        let mark = match thread {
            "" => &mut self.all,
            MAIN => &mut self.main,
            root => return self.advance_thread(root, place.ordering),
        };
        let is_ahead = place.ordering > mark.ordering;
        if is_ahead {
            *mark = place;
        }
        is_ahead
    }

    fn advance_thread(&mut self, root: &str, ordering: i64) -> bool {
        match self.threads.iter_mut().find(|(known, _)| **known == *root) {
            Some((_, mark)) if *mark >= ordering => false,
            Some((_, mark)) => {
                *mark = ordering;
                true
            }
            None => {
                self.threads.push((root.into(), ordering));
                true
            }
        }
    }

    /// Up to where the main timeline is read.
    pub fn read_main(&self) -> Place {
        self.all.max(self.main)
    }

    /// Up to where a thread (None: the main timeline) is read.
    pub fn read(&self, thread: Option<&str>) -> i64 {
        let Some(root) = thread else {
            return self.read_main().ordering;
        };
        let mark = self.threads.iter().find(|(known, _)| **known == *root);
        self.all.ordering.max(mark.map_or(0, |(_, ordering)| *ordering))
    }
}

impl QuietRange {
    fn contains(&self, ordering: i64) -> bool {
        self.from.ordering <= ordering && self.to.is_none_or(|to| ordering < to.ordering)
    }
}

impl UserRoomCounts {
    /// Whether defaults do not hold for the user at this place.
    pub fn is_quiet(&self, ordering: i64) -> bool {
        self.quiet.iter().any(|range| range.contains(ordering))
    }

    /// The counts in a room whose ordinal now is `ordinal`. `exceptions` are in the order of the
    /// room and complete above the oldest mark ([`Marks::all`] or the main one).
    pub fn count(&self, ordinal: i64, exceptions: &[Exception]) -> UnreadCounts {
        let read_main = self.marks.read_main();
        let mut main = Count::default();
        main.add(self.count_ordinals(read_main, ordinal), 0);
        let mut threads: BTreeMap<&str, Count> = BTreeMap::new();
        let from = exceptions.partition_point(|e| e.ordering <= self.marks.all.ordering);
        for exception in &exceptions[from..] {
            let is_quiet = self.is_quiet(exception.ordering);
            if exception.counted && !is_quiet && exception.ordering > read_main.ordering {
                main.add(-1, 0);
            }
            let thread = exception.thread.as_deref();
            if !is_quiet && exception.ordering > self.marks.read(thread) {
                let count = match thread {
                    None => &mut main,
                    Some(root) => threads.entry(root).or_default(),
                };
                count.add(exception.notifies.into(), exception.highlights.into());
            }
        }
        for deviation in &self.deviations {
            let thread = deviation.thread.as_deref();
            if deviation.ordering > self.marks.read(thread) {
                let count = match thread {
                    None => &mut main,
                    Some(root) => threads.entry(root).or_default(),
                };
                count.add(deviation.notify_delta, deviation.highlight_delta);
            }
        }
        let threads = threads.into_iter().map(|(root, c)| (root.to_owned(), c.at_least_zero()));
        let threads = threads.filter(|(_, count)| !count.is_zero()).collect();
        UnreadCounts { main: main.at_least_zero(), threads }
    }

    /// How many events behind `read` the ordinals count, less those in quiet ranges.
    fn count_ordinals(&self, read: Place, ordinal: i64) -> i64 {
        let mut count = ordinal - read.ordinal;
        for range in &self.quiet {
            let is_behind = range.to.is_none_or(|to| to.ordering > read.ordering + 1);
            if is_behind {
                let from = range.from.ordinal.max(read.ordinal);
                let to = range.to.map_or(ordinal, |to| to.ordinal);
                count -= (to - from).max(0);
            }
        }
        count
    }

    /// Adds a deviation in its place, once.
    pub fn insert_deviation(&mut self, deviation: Deviation) {
        let place = self.deviations.partition_point(|d| d.ordering < deviation.ordering);
        match self.deviations.get(place) {
            Some(known) if known.ordering == deviation.ordering => {}
            _ => self.deviations.insert(place, deviation),
        }
    }

    /// Puts a deviation in the place of what was known of its event.
    pub fn replace_deviation(&mut self, deviation: Deviation) {
        self.deviations.retain(|known| known.ordering != deviation.ordering);
        self.insert_deviation(deviation);
    }

    /// Forgets deviations that are read whatever their thread.
    pub fn prune(&mut self) {
        let read = self.marks.all.ordering;
        self.deviations.retain(|deviation| deviation.ordering > read);
    }

    /// Opens a quiet range, once.
    pub fn begin_quiet(&mut self, from: Place) {
        if !self.quiet.iter().any(|range| range.from.ordering == from.ordering) {
            self.quiet.push(QuietRange { from, to: None });
        }
    }

    /// Closes the open range.
    pub fn end_quiet(&mut self, to: Place) {
        let open = self.quiet.iter_mut().filter(|range| range.to.is_none());
        open.for_each(|range| range.to = Some(to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(ordering: i64, ordinal: i64) -> Place {
        Place { ordering, ordinal }
    }

    fn in_thread(ordering: i64, root: &str) -> Exception {
        let thread = Some(root.into());
        Exception { ordering, thread, counted: true, notifies: true, highlights: false }
    }

    fn user(all: Place) -> UserRoomCounts {
        let marks = Marks { all, ..Marks::default() };
        UserRoomCounts { marks, ..UserRoomCounts::default() }
    }

    fn check(user: &UserRoomCounts, exceptions: &[Exception], main: i64, threads: &[(&str, i64)]) {
        let counts = user.count(10, exceptions);
        let found: Vec<_> =
            counts.threads.iter().map(|(root, c)| (root.as_str(), c.notifications)).collect();
        assert_eq!((counts.main.notifications, found.as_slice()), (main, threads));
    }

    #[test]
    fn counts_are_what_lies_behind_the_mark() {
        check(&user(place(40, 4)), &[], 6, &[]);
        check(&user(place(100, 10)), &[], 0, &[]);
    }

    #[test]
    fn threads_are_read_each_for_themselves() {
        let exceptions = [in_thread(50, "$a"), in_thread(60, "$b"), in_thread(70, "$a")];
        let mut user = user(place(40, 4));
        check(&user, &exceptions, 3, &[("$a", 2), ("$b", 1)]);
        user.marks.advance("$a", place(50, 5));
        check(&user, &exceptions, 3, &[("$a", 1), ("$b", 1)]);
        user.marks.advance(MAIN, place(100, 10));
        check(&user, &exceptions, 0, &[("$a", 1), ("$b", 1)]);
        user.marks.advance("", place(60, 6));
        check(&user, &exceptions, 0, &[("$a", 1)]);
    }

    #[test]
    fn redacted_events_count_no_more() {
        let gone = Exception {
            ordering: 50,
            thread: None,
            counted: true,
            notifies: false,
            highlights: false,
        };
        check(&user(place(40, 4)), std::slice::from_ref(&gone), 5, &[]);
        check(&user(place(50, 5)), &[gone], 5, &[]);
    }

    #[test]
    fn deviations_add_to_the_default() {
        let mut user = user(place(40, 4));
        let mention = Deviation { ordering: 50, thread: None, notify_delta: 0, highlight_delta: 1 };
        user.insert_deviation(mention.clone());
        user.insert_deviation(mention);
        let counts = user.count(10, &[]);
        assert_eq!(counts.main, Count { notifications: 6, highlights: 1 });
        let ignored =
            Deviation { ordering: 50, thread: None, notify_delta: -1, highlight_delta: 0 };
        user.replace_deviation(ignored);
        assert_eq!(user.count(10, &[]).main, Count { notifications: 5, highlights: 0 });
        user.marks.advance("", place(50, 5));
        user.prune();
        assert!(user.deviations.is_empty());
    }

    #[test]
    fn nothing_counts_by_default_in_quiet_ranges() {
        let mut user = user(place(40, 4));
        user.begin_quiet(place(60, 5));
        check(&user, &[], 1, &[]);
        check(&user, &[in_thread(50, "$a"), in_thread(80, "$a")], 0, &[("$a", 1)]);
        user.end_quiet(place(90, 8));
        check(&user, &[], 3, &[]);
        user.marks.advance("", place(70, 6));
        check(&user, &[], 2, &[]);
        user.marks.advance("", place(95, 9));
        check(&user, &[], 1, &[]);
    }
}
