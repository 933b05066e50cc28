//! Rows of `reports`: what users told the administrators about rooms, events and users.

use super::{Statement, WriteTx};

static INSERT: Statement = Statement {
    table: "reports",
    key: 0,
    sql: "INSERT INTO reports (reporter, room_id, event_id, user_id, reason, received_ts)
          SELECT value->>0, value->>1, value->>2, value->>3, value->>4,
              CAST(value->>5 AS BIGINT)
          FROM json_each($1)",
};

/// What is reported: a room, an event in a room, or a user.
#[derive(Clone, Debug)]
pub struct NewReport<'a> {
    pub reporter: &'a str,
    pub room_id: Option<&'a str>,
    pub event_id: Option<&'a str>,
    pub user_id: Option<&'a str>,
    pub reason: Option<&'a str>,
    /// Milliseconds since the Unix epoch.
    pub received_ts: u64,
}

pub fn insert(tx: &mut WriteTx, report: &NewReport<'_>) {
    let cells = vec![
        report.reporter.into(),
        report.room_id.into(),
        report.event_id.into(),
        report.user_id.into(),
        report.reason.into(),
        report.received_ts.into(),
    ];
    tx.push(&INSERT, cells);
}
