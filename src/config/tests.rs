//! The configuration as a whole: what loads, what is refused and what is said about it.

use std::time::Duration;

use super::*;

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigProblems> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.toml");
    std::fs::write(&path, text).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Some(&path), env)
}

fn problems(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let shown = load(text, env).unwrap_err().to_string();
    shown.lines().skip(1).map(|line| line.trim().to_owned()).collect()
}

/// Takes the `#` from every key of the example; prose has a blank behind its `#`.
fn uncommented_example() -> String {
    let strip = |line: &str| match line.strip_prefix('#') {
        Some(key) if !key.is_empty() && !key.starts_with(' ') => key.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(strip).collect::<Vec<_>>().join("\n")
}

fn key_paths(parent: &str, value: &serde_json::Value, paths: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                key_paths(&format!("{parent}.{key}"), value, paths);
            }
        }
        serde_json::Value::Array(entries) if parent == ".listen" => {
            key_paths(parent, &entries[0], paths);
        }
        _ => paths.push(parent.to_owned()),
    }
}

#[test]
fn example_equals_the_defaults() {
    assert_eq!(load(EXAMPLE, &[]).unwrap(), Config::default());
    assert_eq!(load(&uncommented_example(), &[]).unwrap(), Config::default());
}

#[test]
fn example_names_every_key() {
    let example: toml::Table = toml::from_str(&uncommented_example()).unwrap();
    let (mut in_example, mut known) = (Vec::new(), Vec::new());
    key_paths("", &serde_json::to_value(example).unwrap(), &mut in_example);
    key_paths("", &serde_json::to_value(Config::default()).unwrap(), &mut known);
    in_example.sort();
    known.sort();
    assert_eq!(in_example, known);
}

#[test]
fn no_file_and_no_variables_give_the_defaults() {
    assert_eq!(Config::load(None, []).unwrap(), Config::default());
}

#[test]
fn file_overrides_defaults_and_variables_override_the_file() {
    let text = "[server]\nname = \"a.example\"\n[media]\nupload_size_max = \"1 MiB\"\n";
    let env = [("HEARTH_MEDIA__UPLOAD_SIZE_MAX", "2 MiB"), ("HEARTH_CONFIG", "x"), ("PATH", "y")];
    let config = load(text, &env).unwrap();
    assert_eq!(config.server.name, "a.example");
    assert_eq!(config.media.upload_size_max, Size::mib(2));
}

#[test]
fn variables_reach_nested_keys_lists_and_texts_that_look_like_numbers() {
    let env = [
        ("HEARTH_RATE_LIMITS__LOGIN__BURST", "7"),
        ("HEARTH_LISTEN", "[{address=\"0.0.0.0:80\", apis=[\"client\"]}]"),
        ("HEARTH_REGISTRATION__SHARED_SECRET", "12345"),
        ("HEARTH_REGISTRATION__TOKENS", "[\"a\", \"b\"]"),
        ("HEARTH_ROOMS__DEFAULT_VERSION", "11"),
        ("HEARTH_ROOMS__REDACTION_RETENTION", "never"),
    ];
    let config = load("", &env).unwrap();
    assert_eq!(config.rate_limits.login.burst, 7);
    assert_eq!(config.listen[0].address.to_string(), "0.0.0.0:80");
    assert_eq!(config.listen[0].apis, [Api::Client]);
    assert_eq!(config.registration.shared_secret, Some(Secret::new("12345")));
    assert_eq!(config.registration.tokens.len(), 2);
    assert_eq!(config.rooms.default_version.as_str(), "11");
    assert_eq!(config.rooms.redaction_retention, None);
}

#[test]
fn every_problem_is_reported_with_its_line() {
    let text = "\
[server]
nmae = \"a.example\"
data_dir = 3

[media]
upload_size_max = \"lots\"

[[listen]]
adress = \"127.0.0.1:80\"
mode = \"999\"

[[listen]]
address = \"8008\"
apis = [\"clinet\"]
tls.certificate = \"only.pem\"
tls.kee = \"key.pem\"

[rate_limits]
login = { burst = -1 }
upload_size_max = 3

[sync]
timeline_limit_max = 5
";
    let env = [("HEARTH_SESSIONS__DEVICES_MAX", "many"), ("HEARTH_LOGING__LEVEL", "info")];
    let expected = [
        "line 2: server.nmae is not a known key; did you mean `name`?",
        "line 3: server.data_dir is 3, but must be a text in quotation marks",
        "line 6: media.upload_size_max: \"lots\" is no size; write for example \"50 MiB\"",
        "line 9: listen[0].adress is not a known key; did you mean `address`?",
        "line 10: listen[0].mode: \"999\" are no permissions; write three octal digits, for example \"660\"",
        "line 13: listen[1].address: \"8008\" is no address to listen on; write for example \
         \"127.0.0.1:8008\", \"[::]:8448\" or \"unix:/run/hearth/hearth.sock\"",
        "line 14: listen[1].apis cannot be \"clinet\"; it must be one of client, federation, admin, \
         metrics; did you mean `client`?",
        "line 16: listen[1].tls.kee is not a known key; did you mean `key`?",
        "line 19: rate_limits.login.burst is -1, but must be a whole number, 0 or more",
        "line 20: rate_limits.upload_size_max is not a known key; did you mean `media.upload_size_max`?",
        "line 22: sync.timeline_limit_default must be at most sync.timeline_limit_max",
        "HEARTH_LOGING__LEVEL: loging is not a known key; did you mean `logging`?",
        "HEARTH_SESSIONS__DEVICES_MAX: sessions.devices_max is \"many\", but must be a whole \
         number, 0 or more",
    ];
    assert_eq!(problems(text, &env), expected);
}

#[test]
fn broken_syntax_is_reported_with_its_line() {
    let found = problems("[server]\nname = \"a.example\"\n[media\n", &[]);
    assert!(found[0].starts_with("line 3: "), "{found:?}");
}

#[test]
fn section_set_to_a_value_is_explained() {
    let found = problems("media = 5\n", &[]);
    assert_eq!(found, ["line 1: media is a section; set the keys in it, under [media]"]);
}

#[test]
fn secrets_are_read_from_files_without_their_line_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, "postgres://u:p@h/n\n").unwrap();
    let text = format!("[database]\nurl_file = {path:?}\n");
    let config = load(&text, &[]).unwrap();
    assert_eq!(
        config.database_location(),
        DatabaseLocation::Postgres(Secret::new("postgres://u:p@h/n"))
    );

    let both = format!("[database]\nurl_file = {path:?}\nurl = \"sqlite:x\"\n");
    assert_eq!(
        problems(&both, &[]),
        ["line 2: database.url_file and database.url are both set; keep one of them"]
    );
    let missing = problems("[database]\nurl_file = \"/nowhere/at/all\"\n", &[]);
    assert!(
        missing[0].starts_with("line 2: database.url_file names /nowhere/at/all: "),
        "{missing:?}"
    );
}

#[test]
fn missing_file_is_a_problem_of_its_own() {
    let problems = Config::load(Some(Path::new("/nowhere/hearth.toml")), []).unwrap_err();
    assert!(problems.to_string().contains("/nowhere/hearth.toml"));
}

#[test]
fn printing_a_configuration_shows_no_secret() {
    let config = load("[registration]\nshared_secret = \"hunter2\"\n", &[]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn public_url_falls_back_to_the_local_door_or_the_server_name() {
    assert_eq!(Config::default().public_url(), "http://127.0.0.1:8008");
    let named = load("[server]\nname = \"example.org\"\n", &[]).unwrap();
    assert_eq!(named.public_url(), "https://example.org");
    let text = "[server]\npublic_url = \"https://matrix.example.org/\"\n";
    assert_eq!(load(text, &[]).unwrap().public_url(), "https://matrix.example.org");
}

#[test]
fn durations_of_the_file_are_read() {
    let config = load("[presence]\noffline_after = \"1m 30s\"\n", &[]).unwrap();
    assert_eq!(config.presence.offline_after, Duration::from_secs(90));
}

#[test]
fn arbitrary_text_never_panics() {
    use proptest::prelude::*;
    proptest!(|(text in "[\\[\\]a-z_.=\"'\n0-9{},# ]{0,200}")| { let _ = load(&text, &[]); });
}
