//! The only differences between the two databases. Everything else is one SQL text:
//! `$1` parameters, lists and batches of rows as JSON arrays of arrays, read with
//! `json_each($1)` and `value->>0`; PostgreSQL learns `json_each(text)` and `unhex(text)`
//! from the first migration.

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }

    /// One text that runs `statements` (each with its parameters already numbered) as one
    /// transaction in one round trip: several statements between BEGIN and COMMIT on SQLite,
    /// one statement of common table expressions on PostgreSQL. There, all of them see the
    /// database as it was before.
    pub(super) fn join_statements(self, statements: &[String]) -> String {
        match self {
            Self::Sqlite => format!("BEGIN IMMEDIATE;\n{};\nCOMMIT", statements.join(";\n")),
            Self::Postgres => {
                let named = statements.iter().enumerate();
                let named: Vec<_> =
                    named.map(|(number, sql)| format!("s{number} AS (\n{sql}\n)")).collect();
                format!("WITH {}\nSELECT 1", named.join(", "))
            }
        }
    }

    /// Notes the number of a batch (`$1`) and the last position (`$3`), and fails unless this
    /// process (epoch `$2`) still is the writer.
    pub(super) fn fence_statement(self) -> &'static str {
        match self {
            // The file lock on the data directory keeps other processes out.
            Self::Sqlite => "UPDATE writer SET batch = $1, position = $3 WHERE epoch = $2",
            Self::Postgres => {
                "UPDATE writer SET batch = $1, position = $3 WHERE 1 / (CASE WHEN epoch = $2 THEN 1 ELSE 0 END) = 1"
            }
        }
    }
}
