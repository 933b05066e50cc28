//! Reads Rust as text: enough to know what a file imports, where its functions end, and what is comment,
//! text or unit test. Not a parser: it trusts that the compiler has accepted the file.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A source file as written, and the same without comments, texts and unit tests.
pub struct Source {
    /// Its path from the root of the repository, with slashes.
    pub name: String,
    pub text: String,
    /// As long as `text`, line by line: what does not count is blanked out.
    pub code: String,
}

pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

impl Source {
    /// The files of src/, without those that hold nothing but unit tests.
    pub fn of_server() -> Vec<Self> {
        let mut sources = Self::below("src");
        sources.retain(|source| source.stem() != "tests" && !source.name.contains("/tests/"));
        assert!(!sources.is_empty(), "no sources found");
        sources
    }

    /// All Rust files that are ours.
    pub fn all() -> Vec<Self> {
        ["src", "tests"].into_iter().flat_map(Self::below).collect()
    }

    fn below(folder: &str) -> Vec<Self> {
        let root = repository();
        let files = list_files(&root.join(folder));
        let rust =
            files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
        rust.map(|path| {
            let text = fs::read_to_string(path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Self::read_text(&relative_name(&root, path), &text)
        })
        .collect()
    }

    pub fn read_text(name: &str, text: &str) -> Self {
        let code = blank_unit_tests(&blank_comments_and_texts(text));
        Self { name: name.to_owned(), text: text.to_owned(), code }
    }

    /// The module of the first level that the file belongs to: `http` for src/http/client/send.rs.
    pub fn module(&self) -> String {
        let path = self.name.trim_start_matches("src/").trim_end_matches(".rs");
        path.split('/').next().unwrap_or(path).to_owned()
    }

    pub fn stem(&self) -> &str {
        let file = self.name.rsplit('/').next().unwrap_or(&self.name);
        file.trim_end_matches(".rs")
    }

    /// Lines up to the unit tests at the end.
    pub fn code_lines(&self) -> usize {
        self.code.trim_end().lines().count()
    }

    /// The modules that this file names after `crate::`, each with its line.
    pub fn imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for root in ["crate::", "hearth::"] {
            for (start, _) in self.code.match_indices(root) {
                if ends_with_word(&self.code[..start]) {
                    continue;
                }
                let line = self.line_at(start);
                let names = first_names(&self.code[start + root.len()..]);
                found.extend(names.into_iter().map(|name| (line, name.to_owned())));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// The lines in which a path begins with `path`.
    pub fn lines_with_path(&self, path: &str) -> impl Iterator<Item = usize> {
        let paths = self.code.match_indices(path).filter(|(start, _)| {
            let before = &self.code[..*start];
            let after = &self.code[start + path.len()..];
            !ends_with_word(before)
                && !before.ends_with("::")
                && (after.starts_with("::") || path.contains("::"))
        });
        paths.map(|(start, _)| self.line_at(start))
    }

    pub fn functions(&self) -> Vec<Function> {
        let starts = self
            .code
            .match_indices("fn ")
            .filter(|(start, _)| !ends_with_word(&self.code[..*start]));
        starts
            .filter_map(|(start, _)| {
                let name = first_word(&self.code[start + 3..]);
                let end = start + end_of_item(&self.code[start..])?;
                let (line, last) = (self.line_at(start), self.line_at(end));
                (!name.is_empty()).then(|| Function {
                    name: name.to_owned(),
                    line,
                    lines: last - line + 1,
                })
            })
            .collect()
    }

    fn line_at(&self, offset: usize) -> usize {
        self.code[..offset].matches('\n').count() + 1
    }
}

/// The first names of a path or of a group of paths: `a` and `d` of `{a::{b, c}, d}`.
fn first_names(path: &str) -> Vec<&str> {
    if !path.starts_with('{') {
        return vec![first_word(path)];
    }
    let (mut names, mut depth, mut expects_name) = (Vec::new(), 0, true);
    for (index, character) in path.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => expects_name = true,
            _ if depth == 1 && expects_name && is_word(character) => {
                names.push(first_word(&path[index..]));
                expects_name = false;
            }
            _ => {}
        }
    }
    names
}

/// Comments, texts and characters as spaces; line breaks stay.
fn blank_comments_and_texts(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let blank =
            if ends_with_word(&code) { length_of_quoted(rest) } else { length_of_blank(rest) };
        if blank > 0 {
            code.extend(
                rest[..blank].chars().map(|character| if character == '\n' { '\n' } else { ' ' }),
            );
            rest = &rest[blank..];
        } else {
            let character = rest.chars().next().expect("the rest is not empty");
            code.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    code
}

/// How many bytes at the start are a comment, a text with its prefix, or a character.
fn length_of_blank(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return length_of_block_comment(rest);
    }
    for prefix in ["br", "cr", "r"] {
        if let Some(raw) = rest.strip_prefix(prefix) {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            if raw[hashes..].starts_with('"') {
                let end = format!("\"{}", "#".repeat(hashes));
                let body = prefix.len() + hashes + 1;
                return rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len());
            }
        }
    }
    let prefix =
        usize::from(rest.starts_with("b\"") || rest.starts_with("b'") || rest.starts_with("c\""));
    match length_of_quoted(&rest[prefix..]) {
        0 => 0,
        length => prefix + length,
    }
}

/// The length of a plain text or character; 0 for anything else, a lifetime included.
fn length_of_quoted(rest: &str) -> usize {
    let is_character = rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'');
    let quote = match rest.chars().next() {
        Some('"') => '"',
        Some('\'') if is_character => '\'',
        _ => return 0,
    };
    let mut escaped = false;
    for (index, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return index + 1,
            _ => {}
        }
    }
    rest.len()
}

fn length_of_block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Blanks what stands under `#[cfg(test)]`: tests may reach up and unwrap.
fn blank_unit_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut result = code.to_owned();
    while let Some(start) = result.find(MARK) {
        let end = end_of_item(&result[start + MARK.len()..])
            .map_or(result.len(), |end| start + MARK.len() + end + 1);
        let blank: String = result[start..end]
            .chars()
            .map(|character| if character == '\n' { '\n' } else { ' ' })
            .collect();
        result.replace_range(start..end, &blank);
    }
    result
}

/// Where an item ends: at its `;`, or at the bracket that closes its body.
fn end_of_item(code: &str) -> Option<usize> {
    let (mut braces, mut others) = (0, 0);
    for (index, character) in code.char_indices() {
        match character {
            '(' | '[' => others += 1,
            ')' | ']' => others -= 1,
            '{' => braces += 1,
            '}' if braces == 1 && others == 0 => return Some(index),
            '}' => braces -= 1,
            ';' if braces == 0 && others == 0 => return Some(index),
            _ => {}
        }
    }
    None
}

pub fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(start, _)| {
        !ends_with_word(&line[..start]) && !line[start + word.len()..].starts_with(is_word)
    })
}

fn ends_with_word(text: &str) -> bool {
    text.ends_with(is_word)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn first_word(text: &str) -> &str {
    &text[..text.find(|character| !is_word(character)).unwrap_or(text.len())]
}

pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder, in order; what npm and cargo put there is not ours.
pub fn list_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("a folder of ours can be listed").path();
        let name = path.file_name().unwrap_or_default();
        if !path.is_dir() {
            files.push(path);
        } else if name != "node_modules" && name != "target" {
            files.extend(list_files(&path));
        }
    }
    files.sort();
    files
}

pub fn relative_name(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    relative.to_string_lossy().replace('\\', "/")
}
