//! What the measured program is asked beside what every benchmark asks it.

use serde_json::{Value, json};

use super::rig::process::Process;

impl Process {
    /// Makes a room that everybody may join.
    pub async fn create_room(&self, token: &str) -> String {
        let body = json!({ "preset": "public_chat", "room_version": "11" });
        let url = format!("{}/_matrix/client/v3/createRoom", self.url);
        let request = self.http.post(url).json(&body).bearer_auth(token);
        let answer: Value = request.send().await.expect("answers").json().await.expect("is JSON");
        answer["room_id"].as_str().expect("is made").to_owned()
    }

    pub async fn join(&self, token: &str, room: &str) {
        let url = format!("{}/_matrix/client/v3/join/{room}", self.url);
        let request = self.http.post(url).json(&json!({})).bearer_auth(token);
        let answer = request.send().await.expect("answers");
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// Processor time that it has taken, seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(path).expect("runs");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("has fields").split(' ').collect();
        let ticks = |place: usize| fields[place].parse::<f64>().expect("is a number");
        // User and system time, in hundredths of a second.
        (ticks(11) + ticks(12)) / 100.0
    }
}
