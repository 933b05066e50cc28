//! What the integration tests stand on: a real server over real HTTP on either database, and a
//! small client. Nothing here sleeps; every wait is for something that happens.

mod backend;
mod client;
mod front;
mod identity_server;
mod mail_sink;
mod network;
mod peer;
mod push_gateway;
mod server;
mod specification;
mod switchboard;

pub use backend::{Backend, run_pair_test, run_test, run_trio_test};
pub use client::{Answer, Client};
pub use front::Front;
pub use identity_server::IdentityServer;
pub use mail_sink::MailSink;
pub use network::Network;
pub use peer::{ScriptedPeer, endless, to_response};
pub use push_gateway::PushGateway;
pub use server::Server;
pub use specification::specification_folder;
pub use switchboard::{Line, Switchboard};

/// Makes of each `async fn name(backend: Backend) { … }` a test on SQLite and one on PostgreSQL.
#[macro_export]
macro_rules! both_databases {
    ($($(#[$attribute:meta])* async fn $name:ident($backend:ident: Backend) $body:block)*) => {$(
        mod $name {
            use super::*;

            $(#[$attribute])*
            async fn body($backend: &$crate::harness::Backend) $body

            #[test]
            fn sqlite() {
                $crate::harness::run_test($crate::harness::Backend::sqlite, async |backend| {
                    body(backend).await
                });
            }

            #[test]
            fn postgres() {
                $crate::harness::run_test($crate::harness::Backend::postgres, async |backend| {
                    body(backend).await
                });
            }
        }
    )*};
}

/// Makes of each `async fn name(one: Backend, two: Backend) { … }` a test with the data of two servers
/// on SQLite and one on PostgreSQL.
#[macro_export]
macro_rules! two_servers {
    ($(async fn $name:ident($one:ident: Backend, $two:ident: Backend) $body:block)*) => {$(
        mod $name {
            use super::*;

            async fn body($one: &$crate::harness::Backend, $two: &$crate::harness::Backend) $body

            #[test]
            fn sqlite() {
                $crate::harness::run_pair_test($crate::harness::Backend::sqlite, async |one, two| {
                    body(one, two).await
                });
            }

            #[test]
            fn postgres() {
                $crate::harness::run_pair_test($crate::harness::Backend::postgres, async |one, two| {
                    body(one, two).await
                });
            }
        }
    )*};
}
