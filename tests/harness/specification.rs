//! Holds every answer that a test gets against the specification's OpenAPI: the status must be a
//! listed one or a standard error, and the body must have its shape; so must the contents of the events
//! in it. Not for requests, and not for endpoints that the specification does not have.
//!
//! The specification stands beside the repository, in `../shared/spec`.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
};

use jsonschema::{Draft, Validator};
use reqwest::Method;
use serde_json::{Map, Value, json};

/// Where the schema of the specification says something else than its prose, or than every client and
/// server: the operation (or event type), a part of the complaint, and why the answer is right.
const RULINGS: &[(&str, &str, &str)] = &[
    (
        "changePassword",
        "`M_WEAK_PASSWORD`",
        "the operation lists no error for it, and \"Other error codes\" has this one for the purpose",
    ),
    (
        "getJoinedMembersByRoom",
        "null is not of type \"string\"",
        "other servers give both fields always, null where the user has none, and clients' tests want them",
    ),
    (
        "uploadCrossSigningKeys",
        "status 401",
        "its prose asks for user-interactive authentication, which begins with this status",
    ),
    (
        "register",
        "\"flows\" is a required property",
        "application services without a good token get M_MISSING_TOKEN or M_UNKNOWN_TOKEN \
         (application-service API, \"Server admin style permissions\")",
    ),
];

/// Errors that every operation may answer with (Client-Server API, "Standard error response").
const STANDARD_ERRORS: &[(u16, &[&str])] = &[
    (
        400,
        &[
            "M_BAD_JSON",
            "M_NOT_JSON",
            "M_MISSING_PARAM",
            "M_INVALID_PARAM",
            "M_BAD_STATE",
            "M_UNKNOWN",
            // Application-service API, "Identity assertion", "Server admin style permissions".
            "M_UNKNOWN_DEVICE",
            "M_EXCLUSIVE",
        ],
    ),
    (401, &["M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_LOCKED", "M_UNAUTHORIZED"]),
    (
        403,
        &[
            "M_FORBIDDEN",
            "M_GUEST_ACCESS_FORBIDDEN",
            "M_USER_SUSPENDED",
            "M_USER_LIMIT_EXCEEDED",
            "M_LIMIT_EXCEEDED",
            "M_INVITE_BLOCKED",
            "M_THREEPID_DENIED",
            // "Other error codes".
            "M_THREEPID_AUTH_FAILED",
            "M_SERVER_NOT_TRUSTED",
            "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM",
        ],
    ),
    (404, &["M_NOT_FOUND", "M_UNRECOGNIZED"]),
    (405, &["M_UNRECOGNIZED"]),
    (413, &["M_TOO_LARGE"]),
    (429, &["M_LIMIT_EXCEEDED"]),
];
/// How much of a body a complaint shows, characters.
const SHOWN_CHARS_MAX: usize = 1500;

/// Panics when the answer to a request is none that the specification has.
#[track_caller]
pub fn check_answer(method: &Method, path: &str, status: u16, body: &Value) {
    let problems = Specification::get().check(method.as_str(), path, status, body);
    let shown: String = body.to_string().chars().take(SHOWN_CHARS_MAX).collect();
    assert!(
        problems.is_empty(),
        "{method} {path} was answered with {status}, which is not as the specification says:\n  {}\n\
         The answer: {shown}",
        problems.join("\n  "),
    );
}

/// Where the specification lies.
pub fn specification_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/spec")
}

/// What is wrong with the body of a request to a push gateway (push-gateway API).
pub fn check_notification(body: &Value) -> Vec<String> {
    let specification = Specification::get();
    let file = specification.folder.join("data/api/push-gateway/push_notifier.yaml");
    let document = specification.load(&file);
    let schema = "/paths/~1notify/post/requestBody/content/application~1json/schema";
    let schema = document.pointer(schema).unwrap();
    let mut problems = specification.complain("notify", schema, &file, body);
    let notification = &body["notification"];
    // What its prose says beside: an event is named with its room, counts of zero are left out, and
    // the address stays here.
    if notification["event_id"].is_string() != notification["room_id"].is_string() {
        problems.push(format!("an event without a room, or the reverse: {body}"));
    }
    if notification["counts"].as_object().is_none_or(|counts| counts.values().any(|n| *n == 0)) {
        problems.push(format!("no counts, or counts of zero: {body}"));
    }
    if notification["devices"]
        .as_array()
        .is_none_or(|d| d.iter().any(|d| !d["data"]["url"].is_null()))
    {
        problems.push(format!("no devices, or an address in their data: {body}"));
    }
    problems
}

/// The operations, with what has been read and compiled of them so far.
struct Specification {
    folder: PathBuf,
    operations: Vec<Operation>,
    documents: Mutex<HashMap<PathBuf, Arc<Value>>>,
    validators: Mutex<HashMap<String, Option<Arc<Validator>>>>,
}

struct Operation {
    name: String,
    method: String,
    file: PathBuf,
    /// The path with its parameters in braces.
    template: String,
}

impl Specification {
    fn get() -> &'static Self {
        static SPECIFICATION: OnceLock<Specification> = OnceLock::new();
        SPECIFICATION.get_or_init(Self::open)
    }

    fn open() -> Self {
        let folder = specification_folder();
        let table = folder.join("endpoints.tsv");
        let Ok(table) = fs::read_to_string(&table) else {
            panic!(
                "{} is missing. Every answer in these tests is checked against the Matrix \
                 specification, which must lie in the folder `shared/spec` beside the repository.",
                table.display(),
            );
        };
        let operations = table.lines().skip(1).filter_map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            let [api, file, method, path, name, ..] = cells[..] else { return None };
            (api == "client-server").then(|| Operation {
                name: name.to_owned(),
                method: method.to_owned(),
                file: folder.join(format!("data/api/client-server/{file}.yaml")),
                template: path.to_owned(),
            })
        });
        let operations = operations.collect();
        Self { folder, operations, documents: Mutex::default(), validators: Mutex::default() }
    }

    fn check(&self, method: &str, path: &str, status: u16, body: &Value) -> Vec<String> {
        let Some(operation) = self.find(method, path) else { return Vec::new() };
        let document = self.load(&operation.file);
        let responses = self.find_responses(&document, operation);
        let Some(responses) = responses else {
            return vec![format!("{} is not in its file", operation.name)];
        };
        let Some(response) = responses.get(status.to_string()) else {
            return check_standard_error(operation, status, body);
        };
        let (response, file) = self.follow(response, &operation.file);
        let mut problems = Vec::new();
        if let Some(schema) = response.pointer("/content/application~1json/schema") {
            let key = format!("{} {status}", operation.name);
            problems.extend(self.complain(&key, schema, &file, body));
        }
        if status == 200 {
            self.check_events(body, &mut problems);
        }
        problems.retain(|problem| !is_ruled(&operation.name, problem));
        problems
    }

    fn find(&self, method: &str, path: &str) -> Option<&Operation> {
        let path = path.split('?').next().unwrap_or(path);
        let fitting = |operation: &&Operation| {
            operation.method == method && fits_template(&operation.template, path)
        };
        // A path that is written out goes before one with parameters.
        self.operations.iter().filter(fitting).min_by_key(|o| o.template.matches('{').count())
    }

    fn find_responses<'a>(&self, document: &'a Value, operation: &Operation) -> Option<&'a Value> {
        let paths = document["paths"].as_object()?;
        let (_, item) = paths.iter().find(|(path, item)| {
            operation.template.ends_with(path.as_str())
                && item[operation.method.to_lowercase()]["operationId"] == operation.name
        })?;
        item.pointer(&format!("/{}/responses", operation.method.to_lowercase()))
    }

    /// The contents of events whose type the specification knows.
    fn check_events(&self, value: &Value, problems: &mut Vec<String>) {
        if let Value::Object(object) = value {
            // Redacted, or shown as if it were, since its sender is erased.
            let is_redacted = value.pointer("/unsigned/redacted_because").is_some()
                || value["type"] == "m.room.message" && value["content"] == json!({});
            if let (Some(kind), Some(content)) = (object.get("type"), object.get("content"))
                && let (Some(kind), true) = (kind.as_str(), content.is_object())
                && !is_redacted
            {
                let found = self.check_event(kind, content);
                problems.extend(found.into_iter().filter(|problem| !is_ruled(kind, problem)));
            }
            object.values().for_each(|value| self.check_events(value, problems));
        } else if let Value::Array(values) = value {
            values.iter().for_each(|value| self.check_events(value, problems));
        }
    }

    fn check_event(&self, kind: &str, content: &Value) -> Vec<String> {
        let is_name = kind.starts_with("m.") && !kind.contains(['/', '$']);
        let file = self.folder.join(format!("data/event-schemas/schema/{kind}.yaml"));
        if !is_name || !file.exists() {
            return Vec::new();
        }
        let document = self.load(&file);
        let Some(schema) = document.pointer("/properties/content") else { return Vec::new() };
        self.complain(kind, schema, &file, content)
    }

    fn complain(&self, key: &str, schema: &Value, file: &Path, body: &Value) -> Vec<String> {
        let known = self.validators.lock().unwrap().get(key).cloned();
        let validator = known.unwrap_or_else(|| {
            let schema = self.inline(schema, file, &mut Vec::new());
            let options = jsonschema::options().with_draft(Draft::Draft202012);
            let built = options.build(&schema);
            let built = Arc::new(built.unwrap_or_else(|error| panic!("{key}: {error}")));
            self.validators.lock().unwrap().insert(key.to_owned(), Some(Arc::clone(&built)));
            Some(built)
        });
        let Some(validator) = validator else { return Vec::new() };
        let errors = validator.iter_errors(body);
        errors.map(|error| format!("{key} at `{}`: {error}", error.instance_path())).collect()
    }

    /// The schema with everything that it refers to in the place of the reference.
    fn inline(&self, schema: &Value, file: &Path, above: &mut Vec<String>) -> Value {
        match schema {
            Value::Object(object) => {
                let Some(Value::String(reference)) = object.get("$ref") else {
                    return self.inline_members(object, file, above);
                };
                let (target, target_file) = self.resolve(reference, file);
                let name = format!("{}#{reference}", file.display());
                if above.contains(&name) {
                    return Value::Bool(true);
                }
                above.push(name);
                let target = self.inline(&target, &target_file, above);
                above.pop();
                // What stands beside a reference holds too.
                let mut siblings = object.clone();
                siblings.remove("$ref");
                let siblings = self.inline_members(&siblings, file, above);
                json!({ "allOf": [target, siblings] })
            }
            Value::Array(list) => list.iter().map(|item| self.inline(item, file, above)).collect(),
            other => other.clone(),
        }
    }

    fn inline_members(
        &self,
        object: &Map<String, Value>,
        file: &Path,
        above: &mut Vec<String>,
    ) -> Value {
        // Examples are no part of a schema, and a property may bear such a name.
        let is_example = |key: &str, value: &Value| {
            matches!(key, "example" | "examples" | "$schema") && value.get("type").is_none()
        };
        let members = object.iter().filter(|(key, value)| !is_example(key, value));
        let members = members.map(|(key, value)| (key.clone(), self.inline(value, file, above)));
        Value::Object(members.collect())
    }

    /// A value, or what it refers to, with the file that this stands in.
    fn follow(&self, value: &Value, file: &Path) -> (Value, PathBuf) {
        match value.get("$ref").and_then(Value::as_str) {
            Some(reference) => self.resolve(reference, file),
            None => (value.clone(), file.to_owned()),
        }
    }

    fn resolve(&self, reference: &str, file: &Path) -> (Value, PathBuf) {
        let (name, pointer) = reference.split_once('#').unwrap_or((reference, ""));
        let target = match name {
            "" => file.to_owned(),
            name => file.parent().unwrap().join(name),
        };
        let found = self.load(&target).pointer(pointer).cloned();
        (found.unwrap_or_else(|| panic!("{} has no {pointer}", target.display())), target)
    }

    fn load(&self, file: &Path) -> Arc<Value> {
        let known = self.documents.lock().unwrap().get(file).cloned();
        known.unwrap_or_else(|| {
            let text = fs::read_to_string(file);
            let text = text.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let document = serde_yaml_ng::from_str(&text);
            let document: Value =
                document.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let document = Arc::new(document);
            self.documents.lock().unwrap().insert(file.to_owned(), Arc::clone(&document));
            document
        })
    }
}

fn fits_template(template: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(wanted), Some(given)) => {
                let is_parameter = wanted.starts_with('{') && !given.is_empty();
                if !is_parameter && wanted != given {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

fn check_standard_error(operation: &Operation, status: u16, body: &Value) -> Vec<String> {
    let name = &operation.name;
    let errcode = body["errcode"].as_str().unwrap_or_default();
    let standard = STANDARD_ERRORS.iter().find(|(standard, _)| *standard == status);
    let is_standard = standard.is_some_and(|(_, codes)| codes.contains(&errcode));
    let complaint = format!("{name} has no status {status} with `{errcode}`");
    match is_standard || is_ruled(name, &complaint) {
        true => Vec::new(),
        false => vec![complaint],
    }
}

fn is_ruled(name: &str, problem: &str) -> bool {
    RULINGS.iter().any(|(ruled, part, _)| *ruled == name && problem.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(method: &str, path: &str, status: u16, body: Value) -> usize {
        Specification::get().check(method, path, status, &body).len()
    }

    #[test]
    fn answers_that_the_specification_does_not_have_are_complained_about() {
        let whoami = "/_matrix/client/v3/account/whoami";
        assert_eq!(complaints("GET", whoami, 200, json!({ "user_id": "@a:b" })), 0);
        assert_eq!(complaints("GET", whoami, 200, json!({ "device_id": "A" })), 1);
        assert_eq!(complaints("GET", whoami, 200, json!({ "user_id": 1 })), 1);
        let error = |errcode: &str| json!({ "errcode": errcode, "error": "It went wrong." });
        assert_eq!(complaints("GET", whoami, 401, error("M_UNKNOWN_TOKEN")), 0);
        assert_eq!(complaints("GET", whoami, 404, error("M_UNKNOWN_TOKEN")), 1);
        assert_eq!(complaints("GET", whoami, 500, error("M_UNKNOWN")), 1);
        assert_eq!(complaints("GET", "/_matrix/client/v3/nothing", 500, json!({})), 0);
    }

    #[test]
    fn contents_of_known_events_are_checked() {
        let state = "/_matrix/client/v3/rooms/!a:b/state";
        let event = |content: Value| {
            json!([{
                "type": "m.room.member",
                "state_key": "@a:b",
                "sender": "@a:b",
                "event_id": "$a",
                "origin_server_ts": 1,
                "content": content,
                "room_id": "!a:b",
            }])
        };
        assert_eq!(complaints("GET", state, 200, event(json!({ "membership": "join" }))), 0);
        assert_eq!(complaints("GET", state, 200, event(json!({ "membership": "visit" }))), 1);
        assert_eq!(complaints("GET", state, 200, json!([{ "type": "m.room.topic" }])), 5);
    }
}
