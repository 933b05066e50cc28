//! Which keys there are: the tree of the defaults, and for lists of tables the defaults of one entry.
//!
//! Not for: types and ranges. Those belong to the sections.

use std::rc::Rc;

use figment::{
    Figment,
    providers::Serialized,
    value::{Dict, Value},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Config, listen::Listener, registration::Terms, well_known::SupportContact};

/// A list of tables, such as `[[listen]]`.
pub(super) struct TableList {
    pub path: &'static str,
    /// The keys of one entry with their defaults.
    pub entry: Dict,
    /// Whether one entry, made of these values over its defaults, can be read.
    pub try_entry: fn(&Dict) -> Result<(), Box<figment::Error>>,
}

/// All keys that exist.
pub(super) struct Schema {
    pub defaults: Rc<Dict>,
    pub lists: [TableList; 3],
}

impl Schema {
    pub fn new() -> Self {
        let lists = [
            TableList::of::<Listener>("listen"),
            TableList::of::<Terms>("registration.terms"),
            TableList::of::<SupportContact>("well_known.support_contacts"),
        ];
        Self { defaults: Rc::new(dict_of(&Config::default())), lists }
    }

    /// The full path of the known key that is most like this one: a sibling when one is near, else a key
    /// of the same name in another section.
    pub fn find_nearest(&self, parent: &str, siblings: &Dict, key: &str) -> Option<String> {
        let near = siblings
            .keys()
            .map(|known| (strsim::jaro_winkler(known, key), known))
            .filter(|(likeness, _)| *likeness > LIKENESS_LEAST)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, known)) = near {
            return Some(join(parent, known));
        }
        let mut paths = Vec::new();
        collect_paths("", &self.defaults, &mut paths);
        paths
            .into_iter()
            .map(|path| (strsim::jaro_winkler(last_part(&path), key), path))
            .filter(|(likeness, _)| *likeness > LIKENESS_ELSEWHERE_LEAST)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, path)| path)
    }
}

impl TableList {
    fn of<T: Default + Serialize + DeserializeOwned>(path: &'static str) -> Self {
        let try_entry = |values: &Dict| {
            Figment::from(Serialized::defaults(T::default()))
                .merge(Serialized::defaults(values))
                .extract::<T>()
                .map(|_| ())
                .map_err(Box::new)
        };
        Self { path, entry: dict_of(&T::default()), try_entry }
    }
}

/// `a` and `b` → `a.b`; the top has no name.
pub(super) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// `a.b` → `b`.
pub(super) fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn collect_paths(parent: &str, dict: &Dict, paths: &mut Vec<String>) {
    for (key, value) in dict {
        let path = join(parent, key);
        if let Value::Dict(_, inner) = value {
            collect_paths(&path, inner, paths);
        }
        paths.push(path);
    }
}

fn dict_of(value: &impl Serialize) -> Dict {
    match Value::serialize(value) {
        Ok(Value::Dict(_, dict)) => dict,
        _ => Dict::new(),
    }
}

/// Below this (Jaro-Winkler), two names have little in common.
const LIKENESS_LEAST: f64 = 0.8;
/// A key of another section is only meant when it is nearly the same.
const LIKENESS_ELSEWHERE_LEAST: f64 = 0.95;
