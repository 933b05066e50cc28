//! Reads the file and the environment into settings, refuses keys that do not exist, and tries every
//! setting alone on top of the defaults, so that one wrong value hides no other.

use std::{
    collections::{HashMap, HashSet},
    mem,
    rc::Rc,
    slice,
};

use figment::{
    Figment,
    error::{Actual, Kind},
    providers::Serialized,
    value::{Dict, Tag, Value},
};
use toml::de::{DeTable, DeValue};

use super::{
    Config,
    problems::{ConfigProblem, ConfigProblems, Place, Problems},
    schema::{Schema, TableList, join, last_part},
};

/// Variables with this prefix are settings: `HEARTH_MEDIA__UPLOAD_SIZE_MAX` is `media.upload_size_max`.
const VARIABLE_PREFIX: &str = "HEARTH_";
/// Names the file itself and is read by the command line.
const VARIABLE_OF_THE_FILE: &str = "HEARTH_CONFIG";

/// The settings of the file and the environment, in the order in which they apply.
pub(super) struct Layers {
    schema: Schema,
    settings: Vec<Setting>,
    places: HashMap<String, Place>,
    problems: Vec<ConfigProblem>,
    /// Paths that were reported already: what follows from their defaults is not worth a line.
    reported: HashSet<String>,
}

struct Setting {
    path: String,
    value: Value,
    /// What an environment variable literally says, in case it is a text that looks like a number.
    literal: Option<String>,
}

impl Layers {
    pub fn read(text: &str, env: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut layers = Self {
            schema: Schema::new(),
            settings: Vec::new(),
            places: HashMap::new(),
            problems: Vec::new(),
            reported: HashSet::new(),
        };
        layers.read_file(text);
        let mut variables: Vec<_> = env.into_iter().collect();
        variables.sort();
        for (name, literal) in variables {
            if name != VARIABLE_OF_THE_FILE
                && let Some(key) = name.strip_prefix(VARIABLE_PREFIX)
            {
                layers.read_variable(&name, key, literal);
            }
        }
        layers
    }

    /// The configuration that the settings make, checked whole.
    pub fn into_config(mut self) -> Result<Config, ConfigProblems> {
        let mut config = match extract(&self.settings) {
            Ok(config) => config,
            Err(_) => self.extract_what_fits(),
        };
        let mut problems = Problems::default();
        config.complete(&mut problems);
        for (path, message) in problems.into_list() {
            if !self.reported.contains(&path) {
                self.report(&path, &format!("{path} {message}"));
            }
        }
        if self.problems.is_empty() { Ok(config) } else { Err(ConfigProblems::new(self.problems)) }
    }

    fn read_file(&mut self, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map_or(Place::Everywhere, |span| line_of(text, span.start));
            self.problem(line, error.message());
        }
        let dict = self.convert_table(text, "", table.get_ref());
        let known = Rc::clone(&self.schema.defaults);
        self.collect("", dict, &known, None);
    }

    fn read_variable(&mut self, name: &str, key: &str, literal: String) {
        let path = key.to_lowercase().replace("__", ".");
        let place = Place::Variable(name.to_owned());
        self.places.retain(|known, _| {
            known != &path
                && !known.starts_with(&format!("{path}."))
                && !known.starts_with(&format!("{path}["))
        });
        for (end, _) in path.match_indices('.') {
            self.places.entry(path[..end].to_owned()).or_insert_with(|| place.clone());
        }
        self.places.insert(path.clone(), place);
        // The parser never fails: what is nothing else is a text.
        let value: Value = literal.parse().unwrap_or_else(|_| Value::from(literal.as_str()));
        let known = Rc::clone(&self.schema.defaults);
        if let Value::Dict(_, dict) = figment::util::nest(&path, value) {
            self.collect("", dict, &known, Some(&literal));
        }
    }

    /// The plain values of a table; their lines go to `places`.
    fn convert_table(&mut self, text: &str, parent: &str, table: &DeTable<'_>) -> Dict {
        let mut dict = Dict::new();
        for (key, value) in table {
            let path = join(parent, key.get_ref());
            self.places.insert(path.clone(), line_of(text, key.span().start));
            dict.insert(key.get_ref().to_string(), self.convert(text, &path, value.get_ref()));
        }
        dict
    }

    fn convert(&mut self, text: &str, path: &str, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(value) => Value::from(value.as_ref()),
            DeValue::Boolean(value) => Value::from(*value),
            DeValue::Integer(value) => i64::from_str_radix(value.as_str(), value.radix())
                .map_or_else(|_| Value::from(value.as_str()), Value::from),
            DeValue::Float(value) => value
                .as_str()
                .parse::<f64>()
                .map_or_else(|_| Value::from(value.as_str()), Value::from),
            DeValue::Datetime(value) => Value::from(value.to_string()),
            DeValue::Table(table) => {
                Value::Dict(Tag::default(), self.convert_table(text, path, table))
            }
            DeValue::Array(array) => {
                let mut values = Vec::new();
                for (index, entry) in array.iter().enumerate() {
                    let entry_path = format!("{path}[{index}]");
                    self.places.insert(entry_path.clone(), line_of(text, entry.span().start));
                    values.push(self.convert(text, &entry_path, entry.get_ref()));
                }
                Value::from(values)
            }
        }
    }

    /// Turns a tree of values into settings, one for each leaf of the known tree.
    fn collect(&mut self, parent: &str, dict: Dict, known: &Dict, literal: Option<&str>) {
        for (key, value) in dict {
            let path = join(parent, &key);
            match (known.get(&key), value) {
                (None, _) => self.refuse_unknown(parent, &key, known),
                (Some(Value::Dict(_, inner)), Value::Dict(_, values)) => {
                    self.collect(&path, values, inner, literal);
                }
                (Some(Value::Dict(..)), _) => {
                    let message =
                        format!("{path} is a section; set the keys in it, under [{path}]");
                    self.report(&path, &message);
                }
                (Some(_), value) => {
                    let value = self.check_list(&path, value);
                    let literal = literal.map(str::to_owned);
                    self.settings.push(Setting { path, value, literal });
                }
            }
        }
    }

    /// Checks the entries of a list of tables; whatever is wrong in one is reported and left out.
    fn check_list(&mut self, path: &str, value: Value) -> Value {
        let Some(index) = self.schema.lists.iter().position(|list| list.path == path) else {
            return value;
        };
        let Value::Array(tag, entries) = value else { return value };
        let checked = entries.into_iter().enumerate().map(|(position, entry)| match entry {
            Value::Dict(tag, values) => {
                let entry_path = format!("{path}[{position}]");
                Value::Dict(tag, self.check_entry(index, &entry_path, values))
            }
            other => other,
        });
        Value::Array(tag, checked.collect())
    }

    fn check_entry(&mut self, list: usize, entry_path: &str, values: Dict) -> Dict {
        let mut kept = Dict::new();
        for (key, value) in values {
            let path = join(entry_path, &key);
            let TableList { entry, try_entry, .. } = &self.schema.lists[list];
            let Some(known) = entry.get(&key) else {
                let known = entry.clone();
                self.refuse_unknown(entry_path, &key, &known);
                continue;
            };
            if let (Value::Dict(_, known), Value::Dict(_, inner)) = (known, &value)
                && let Some(unknown) =
                    inner.keys().find(|inner_key| !known.contains_key(*inner_key))
            {
                let (known, unknown) = (known.clone(), unknown.clone());
                self.refuse_unknown(&path, &unknown, &known);
                continue;
            }
            match try_entry(&Dict::from([(key.clone(), value.clone())])) {
                Ok(()) => {
                    kept.insert(key, value);
                }
                Err(error) => {
                    let message = describe(&path, &error);
                    self.report(&path, &message);
                }
            }
        }
        kept
    }

    fn refuse_unknown(&mut self, parent: &str, key: &str, known: &Dict) {
        let path = join(parent, key);
        let mut message = format!("{path} is not a known key");
        if let Some(nearest) = self.schema.find_nearest(parent, known, key) {
            let elsewhere = nearest != join(parent, last_part(&nearest));
            let name = if elsewhere { &nearest } else { last_part(&nearest) };
            message.push_str(&format!("; did you mean `{name}`?"));
        }
        self.report(&path, &message);
    }

    /// Applies every setting that can be read, and reports the others.
    fn extract_what_fits(&mut self) -> Config {
        let mut kept = Vec::new();
        for mut setting in mem::take(&mut self.settings) {
            let Err(error) = extract(slice::from_ref(&setting)) else {
                kept.push(setting);
                continue;
            };
            if let Some(literal) = setting.literal.take() {
                setting.value = Value::from(literal.as_str());
                if extract(slice::from_ref(&setting)).is_ok() {
                    kept.push(setting);
                    continue;
                }
            }
            let message = describe(&setting.path, &error);
            self.report(&setting.path, &message);
        }
        // Each of them can be read alone and they do not touch each other, so that together they can, too.
        extract(&kept).unwrap_or_default()
    }

    /// Notes a problem at the place of this path, or of the nearest table around it that was written down.
    fn report(&mut self, path: &str, message: &str) {
        self.reported.insert(path.to_owned());
        let mut around = path;
        let place = loop {
            if let Some(place) = self.places.get(around) {
                break place.clone();
            }
            match around.rfind(['.', '[']) {
                Some(end) => around = &around[..end],
                None => break Place::Everywhere,
            }
        };
        self.problem(place, message);
    }

    fn problem(&mut self, place: Place, message: &str) {
        self.problems.push(ConfigProblem { place, message: message.to_owned() });
    }
}

fn extract(settings: &[Setting]) -> Result<Config, Box<figment::Error>> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    for setting in settings {
        figment = figment.merge(Serialized::default(&setting.path, &setting.value));
    }
    figment.extract().map_err(Box::new)
}

fn describe(path: &str, error: &figment::Error) -> String {
    match &error.kind {
        Kind::Message(message) => format!("{path}: {message}"),
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("{path} is {}, but must be {}", show_value(actual), name_type(expected))
        }
        Kind::UnknownVariant(variant, known) => {
            let nearest = known
                .iter()
                .map(|name| (strsim::jaro_winkler(name, variant), name))
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = match nearest {
                Some((likeness, name)) if likeness > 0.8 => format!("; did you mean `{name}`?"),
                _ => String::new(),
            };
            format!("{path} cannot be \"{variant}\"; it must be one of {}{hint}", known.join(", "))
        }
        other => format!("{path}: {other}"),
    }
}

fn show_value(value: &Actual) -> String {
    match value {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Str(value) => format!("\"{value}\""),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// The names that the deserializer gives to types, for people who have never seen them.
fn name_type(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "path string" | "a string" => "a text in quotation marks",
        "a sequence" => "a list in brackets",
        "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        other => other,
    }
}

/// The line, from 1, of a byte of the text.
fn line_of(text: &str, offset: usize) -> Place {
    let before = &text.as_bytes()[..offset.min(text.len())];
    Place::Line(before.iter().filter(|byte| **byte == b'\n').count() + 1)
}
