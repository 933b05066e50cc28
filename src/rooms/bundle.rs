//! Bundled aggregations: what the events say that relate to an event (client-server API,
//! "Aggregations of child events"), for any number of events by one query.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use ruma::UserId;

use super::{
    client_event::{EventView, write_client_event, write_json_string},
    event_store::{StoredEvent, event_id_of_key, event_key},
    reader::Reader,
    registry::Rooms,
    summary::relation_of,
    visibility::Viewer,
};
use crate::{
    protocol::membership::Membership,
    storage::{self, EventNid, StorageError, json_text_rows, relations::Aggregate},
};

/// `m.relations` by event, as JSON; events without relations are left out.
pub type Bundles = HashMap<EventNid, String>;

/// Newer than every event.
const EVERYTHING: EventNid = EventNid(i64::MAX);

/// What relates to one event.
#[derive(Default)]
struct Related {
    edit: Option<EventNid>,
    thread: Option<Thread>,
    /// Keys of events.
    references: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Thread {
    count: i64,
    latest: i64,
    participated: bool,
}

impl Rooms {
    /// The aggregations of the events, which must be of the viewer's room and visible.
    pub async fn bundle(
        &self,
        viewer: &Viewer,
        reader: &Reader<'_>,
        events: &[Arc<StoredEvent>],
    ) -> Result<Bundles, StorageError> {
        let mut related = self.load_related(viewer, reader, events).await?;
        if related.is_empty() {
            return Ok(Bundles::new());
        }
        let children = self.load_children(viewer, &related).await?;
        let latest: Vec<_> = related
            .values()
            .filter_map(|related| children.get(&EventNid(related.thread.as_ref()?.latest)).cloned())
            .collect();
        // The latest event of a thread may have been edited. Threads do not nest, so one step
        // further is as far as it goes.
        let mut inner = self.load_related(viewer, reader, &latest).await?;
        inner.values_mut().for_each(|related| related.thread = None);
        let grandchildren = self.load_children(viewer, &inner).await?;

        let writer = Writer { viewer, reader };
        let inner = writer.write_all(&latest, &mut inner, &grandchildren, &Bundles::new());
        Ok(writer.write_all(events, &mut related, &children, &inner))
    }

    async fn load_related(
        &self,
        viewer: &Viewer,
        reader: &Reader<'_>,
        events: &[Arc<StoredEvent>],
    ) -> Result<HashMap<EventNid, Related>, StorageError> {
        // State events do not receive aggregations.
        let eligible =
            |event: &&Arc<StoredEvent>| event.state_key_nid.is_none() && event.may_have_relations();
        let targets: HashMap<Vec<u8>, &Arc<StoredEvent>> = events
            .iter()
            .filter(eligible)
            .map(|event| (event_key(event.event.event_id()), event))
            .collect();
        if targets.is_empty() {
            return Ok(HashMap::new());
        }
        let keys: Vec<_> = targets.keys().cloned().collect();
        let ignored = json_text_rows(reader.ignored.iter().map(|user| user.as_str()));
        let newest = newest_visible(viewer);
        let of = (viewer.room().nid, keys.as_slice());
        let rows = storage::relations::aggregate(self.database(), of, ignored, newest).await?;
        let mut related: HashMap<EventNid, Related> = HashMap::new();
        for row in rows {
            if let Some(target) = targets.get(&row.target_key) {
                related.entry(target.nid).or_default().add(row, target, reader.user_id);
            }
        }
        if reader.ignored.is_empty() && newest == EVERYTHING {
            let childless = targets.values().filter(|target| !related.contains_key(&target.nid));
            childless.for_each(|target| target.note_no_relations());
        }
        Ok(related)
    }

    /// The edits and the latest events of threads, as far as the reader may see them.
    async fn load_children(
        &self,
        viewer: &Viewer,
        related: &HashMap<EventNid, Related>,
    ) -> Result<HashMap<EventNid, Arc<StoredEvent>>, StorageError> {
        let nids: Vec<_> = related
            .values()
            .flat_map(|related| {
                let latest = related.thread.as_ref().map(|thread| EventNid(thread.latest));
                related.edit.into_iter().chain(latest)
            })
            .collect();
        let events = self.events().load(viewer.room().facts(), &nids).await?;
        let visible = viewer.retain_visible(events).await?;
        let visible = viewer.shown(&visible).await?.into_owned();
        Ok(visible.into_iter().map(|event| (event.nid, event)).collect())
    }
}

/// Who has left does not learn what was said since.
fn newest_visible(viewer: &Viewer) -> EventNid {
    match (viewer.membership, viewer.member_event()) {
        (Membership::Leave | Membership::Ban, Some(event)) if viewer.sees_all_above().is_none() => {
            event.nid
        }
        _ => EVERYTHING,
    }
}

impl Related {
    fn add(&mut self, row: Aggregate, target: &StoredEvent, reader: &UserId) {
        let event = &target.event;
        match row.rel_type.as_str() {
            // "Validity of replacement events", as far as the original decides it.
            "m.replace" => {
                let fits = row.sender == event.sender().as_str() && row.kind == event.kind();
                let is_edit = || relation_of(event).is_some_and(|(kind, _)| kind == "m.replace");
                if fits && !target.is_redacted() && !is_edit() {
                    self.edit = Some(row.event);
                }
            }
            "m.thread" => {
                let thread = self.thread.get_or_insert_with(|| Thread {
                    participated: event.sender() == reader,
                    ..Thread::default()
                });
                thread.count += row.count;
                thread.latest = thread.latest.max(row.event.0);
                thread.participated |= row.sender == reader.as_str();
            }
            _ => self.references.extend(row.event_key),
        }
    }
}

struct Writer<'a> {
    viewer: &'a Viewer,
    reader: &'a Reader<'a>,
}

impl Writer<'_> {
    fn write_all(
        &self,
        events: &[Arc<StoredEvent>],
        related: &mut HashMap<EventNid, Related>,
        children: &HashMap<EventNid, Arc<StoredEvent>>,
        inner: &Bundles,
    ) -> Bundles {
        let mut bundles = Bundles::new();
        for event in events {
            if let Some(related) = related.remove(&event.nid) {
                let json = self.write(&related, children, inner);
                if json.len() > "{}".len() {
                    bundles.insert(event.nid, json);
                }
            }
        }
        bundles
    }

    fn write(
        &self,
        related: &Related,
        children: &HashMap<EventNid, Arc<StoredEvent>>,
        inner: &Bundles,
    ) -> String {
        let mut out = String::from("{");
        if !related.references.is_empty() {
            self.write_references(&mut out, &related.references);
        }
        let edit = related.edit.and_then(|nid| children.get(&nid)).filter(|edit| replaces(edit));
        if let Some(edit) = edit {
            write_key(&mut out, "m.replace");
            self.write_child(&mut out, edit, None);
        }
        if let Some(thread) = &related.thread
            && let Some(latest) = children.get(&EventNid(thread.latest))
        {
            write_key(&mut out, "m.thread");
            let Thread { count, participated, .. } = thread;
            write!(out, r#"{{"count":{count},"current_user_participated":{participated},"#)
                .expect("writing to a String cannot fail");
            out.push_str(r#""latest_event":"#);
            self.write_child(&mut out, latest, inner.get(&latest.nid).map(String::as_str));
            out.push('}');
        }
        out.push('}');
        out
    }

    fn write_references(&self, out: &mut String, keys: &[Vec<u8>]) {
        write_key(out, "m.reference");
        out.push_str(r#"{"chunk":["#);
        let rules = self.viewer.room().rules;
        for (number, id) in keys.iter().flat_map(|key| event_id_of_key(key, rules)).enumerate() {
            out.push_str(if number == 0 { r#"{"event_id":"# } else { r#",{"event_id":"# });
            write_json_string(out, id.as_str());
            out.push('}');
        }
        out.push_str("]}");
    }

    fn write_child(&self, out: &mut String, child: &StoredEvent, relations: Option<&str>) {
        let view = EventView { relations, ..self.reader.view() };
        write_client_event(out, child, &view);
    }
}

/// Whether an edit says what it replaces the content by; an encrypted one says so inside.
fn replaces(edit: &StoredEvent) -> bool {
    edit.event.kind() == "m.room.encrypted" || edit.event.content_json().contains("m.new_content")
}

fn write_key(out: &mut String, key: &str) {
    if out.len() > 1 {
        out.push(',');
    }
    write_json_string(out, key);
    out.push(':');
}
