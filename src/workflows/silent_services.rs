//! Tells the administrators of bridges and bots that have been gone for days, in the room of the server's
//! own words. Not for finding out (`appservices`).

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::server_notices::ServerNotices;
use crate::appservices::{Appservices, Silence};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Has the administrators told from now on.
pub fn report_silent_services(
    appservices: &Appservices,
    notices: &Arc<ServerNotices>,
    (tasks, shutdown): (TaskTracker, CancellationToken),
) {
    // Weak, since accounts know both.
    let notices = Arc::downgrade(notices);
    appservices.set_silence_hook(Arc::new(move |silence: Silence| {
        let (notices, shutdown) = (notices.clone(), shutdown.clone());
        tasks.spawn(async move {
            let Some(notices) = notices.upgrade() else { return };
            let text = describe(&silence);
            let told = shutdown.run_until_cancelled(notices.tell_administrators(&text)).await;
            if let Some(Err(error)) = told {
                tracing::warn!(%error, "no administrator was told of a silent service");
            }
        });
    }));
}

fn describe(silence: &Silence) -> String {
    let Silence { id, lasts_ms, behind } = silence;
    let days = lasts_ms / DAY_MS;
    format!(
        "The application service \"{id}\" has taken nothing for {days} days; {behind} changes wait for \
         it. Start it again and it gets them all, or remove it with `hearth appservice remove {id}`."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_named() {
        let silence = Silence { id: "irc".to_owned(), lasts_ms: 3 * DAY_MS + 5, behind: 7 };
        let text = describe(&silence);
        assert!(
            text.starts_with("The application service \"irc\" has taken nothing for 3 days; 7 ")
        );
    }
}
