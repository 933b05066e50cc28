//! Namespaces, compiled: which users, aliases and rooms a service claims (application-service API,
//! "Registration"). Expressions are matched from the start of an identifier, in time that grows
//! with its length only.

use regex::{RegexSet, RegexSetBuilder};
use ruma::ServerName;

use super::registration::{NamespaceEntry, NamespaceLists, RegistrationError};

/// What a compiled set of expressions may take in memory, bytes.
const COMPILED_BYTES_MAX: usize = 4 << 20;
/// What matching may build up on its way, bytes.
const SEARCH_CACHE_BYTES_MAX: usize = 1 << 20;
/// How deep an expression may be nested.
const NEST_MAX: u32 = 50;

/// Why an expression was not compiled.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(String);

/// The namespaces of one service.
#[derive(Debug)]
pub struct Namespaces {
    pub users: Namespace,
    pub aliases: Namespace,
    pub rooms: Namespace,
}

/// All namespaces of one kind.
#[derive(Debug)]
pub struct Namespace {
    all: RegexSet,
    exclusive: RegexSet,
    /// Only identifiers of this server count (with the colon before it).
    server_suffix: Option<String>,
}

impl Namespaces {
    pub fn compile(
        lists: NamespaceLists,
        server_name: &ServerName,
    ) -> Result<Self, RegistrationError> {
        let ours = || Some(format!(":{server_name}"));
        Ok(Self {
            users: Namespace::compile(lists.users, ours())?,
            aliases: Namespace::compile(lists.aliases, ours())?,
            rooms: Namespace::compile(lists.rooms, None)?,
        })
    }
}

impl Namespace {
    fn compile(
        entries: Option<Vec<NamespaceEntry>>,
        server_suffix: Option<String>,
    ) -> Result<Self, RegistrationError> {
        let entries = entries.unwrap_or_default();
        for NamespaceEntry { regex, .. } in &entries {
            // One by one first, so that the error names the one at fault.
            compile_set(std::iter::once(&**regex))
                .map_err(|error| RegistrationError::BadRegex { regex: regex.clone(), error })?;
        }
        let all_together =
            |error| RegistrationError::BadRegex { regex: "all of them together".to_owned(), error };
        let all = entries.iter().map(|entry| &*entry.regex);
        let exclusive = entries.iter().filter(|entry| entry.exclusive).map(|entry| &*entry.regex);
        Ok(Self {
            all: compile_set(all).map_err(all_together)?,
            exclusive: compile_set(exclusive).map_err(all_together)?,
            server_suffix,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the identifier lies in one of the namespaces.
    pub fn matches(&self, id: &str) -> bool {
        self.is_ours(id) && self.all.is_match(id)
    }

    /// Whether the identifier lies in a namespace that nobody else may use.
    pub fn claims(&self, id: &str) -> bool {
        self.is_ours(id) && self.exclusive.is_match(id)
    }

    fn is_ours(&self, id: &str) -> bool {
        self.server_suffix.as_ref().is_none_or(|suffix| id.ends_with(suffix.as_str()))
    }
}

fn compile_set<'a>(expressions: impl Iterator<Item = &'a str>) -> Result<RegexSet, CompileError> {
    let anchored: Vec<String> = expressions.map(|text| format!("^(?:{text})")).collect();
    RegexSetBuilder::new(anchored)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(SEARCH_CACHE_BYTES_MAX)
        .nest_limit(NEST_MAX)
        .build()
        .map_err(|error| CompileError(error.to_string().replace('\n', " ")))
}
