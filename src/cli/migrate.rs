//! `hearth migrate`: brings the database up to date without starting the server.

use super::{CommandError, check_config::describe_database};
use crate::{
    app::{StartError, lock_data_dir, open_database},
    config::Config,
    storage::migrate,
};

pub(super) fn run(config: Config) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(migrate_database(&config))?;
    Ok(())
}

async fn migrate_database(config: &Config) -> Result<(), StartError> {
    let _lock = lock_data_dir(&config.server.data_dir)?;
    let database = open_database(config).await?;
    let applied = migrate(&database).await?;
    database.close().await;
    let place = describe_database(config);
    if applied.is_empty() {
        println!("The database ({place}) was up to date.");
    } else {
        println!("The database ({place}) is up to date now: {}.", applied.join(", "));
    }
    Ok(())
}
