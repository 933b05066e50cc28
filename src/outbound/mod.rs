//! Our side of the wire: finding other servers, connecting to them, and requests whose answers are
//! bounded in size and time. Knows no Matrix but server names; signing requests and deciding when
//! to try again is `federation`'s.

mod addresses;
mod connector;
mod direct;
mod discovery;
mod dns;
mod mail;
mod request;
mod tls;
mod well_known;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};

pub use self::{
    addresses::{AddressError, Authority},
    direct::{DirectClient, DirectConnector},
    discovery::Discovered,
    mail::{Mail, MailError, Mailer, Paragraph, escape_html, is_mail_address},
    request::{Answer, AnswerStream, Limits, OutboundError},
    well_known::{Delegation, WellKnownFailure},
};
use self::{
    connector::{Connector, Ports},
    dns::Dns,
    tls::TrustAnchors,
    well_known::WellKnownCache,
};
use crate::{clock::Clock, config::AddressRange};

/// Connections that stay open to one destination without a request.
const IDLE_CONNECTIONS_MAX: usize = 4;
/// How long they do.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// How the client is set up.
#[derive(Clone, Debug)]
pub struct OutboundSettings {
    /// Addresses that nothing is sent to.
    pub blocked_networks: Vec<AddressRange>,
    /// PEM files with certificates that are trusted beside those of the operating system.
    pub ca_files: Vec<PathBuf>,
    /// Whether other homeservers have to prove by a certificate who they are.
    pub verify_servers: bool,
}

/// The HTTP client. Clones share its connections and caches.
#[derive(Clone)]
pub struct Outbound(Arc<Inner>);

struct Inner {
    clock: Clock,
    dns: Dns,
    well_known: WellKnownCache,
    /// For other homeservers: an authority without a port goes through SRV records or to 8448.
    servers: HttpClient,
    /// For addresses of the web.
    web: HttpClient,
    addresses: Arc<addresses::AddressRules>,
}

type HttpClient = Client<Connector, Full<Bytes>>;

impl Outbound {
    /// Does nothing yet: system files are read at the first request.
    pub fn new(settings: OutboundSettings, clock: Clock) -> Self {
        let addresses = Arc::new(addresses::AddressRules::new(settings.blocked_networks));
        let dns = Dns::default();
        let anchors = TrustAnchors::new(settings.ca_files);
        let of_servers = match settings.verify_servers {
            true => anchors.clone(),
            false => TrustAnchors::credulous(),
        };
        let client = |anchors: TrustAnchors, ports| {
            let connector = Connector::new(dns.clone(), anchors, Arc::clone(&addresses), ports);
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .build(connector)
        };
        let (servers, web) = (client(of_servers, Ports::Homeserver), client(anchors, Ports::Web));
        let well_known = WellKnownCache::default();
        Self(Arc::new(Inner { clock, dns, well_known, servers, web, addresses }))
    }
}
