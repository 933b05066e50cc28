//! Names to addresses: the system's resolver configuration and hosts file, with a cache that keeps
//! negative answers too. Not for deciding which addresses may be used (`addresses`).

use std::{net::IpAddr, sync::Arc, time::Duration};

use hickory_resolver::{
    TokioResolver,
    net::NetError,
    proto::rr::{RData, rdata::SRV},
};
use tokio::sync::OnceCell;

/// Answers that are kept.
const CACHE_ENTRIES_MAX: u64 = 8192;
/// However long a name's owner says, it is asked for again after this.
const POSITIVE_TTL_MAX: Duration = Duration::from_secs(60 * 60);
/// How long "there is no such name" is believed at least and at most: servers that come back within
/// seconds, as containers do, are not to be missed for minutes.
const NEGATIVE_TTL_MIN: Duration = Duration::from_secs(2);
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(10);

/// Why a name gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    #[error("the name {0} does not exist, or has no address")]
    NotFound(String),
    #[error("the name {name} could not be looked up: {reason}")]
    Failed { name: String, reason: String },
}

/// One place that an SRV record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlace {
    pub host: String,
    pub port: u16,
}

/// The resolver, made at the first question. Clones share it and its cache.
#[derive(Clone, Default)]
pub struct Dns(Arc<OnceCell<TokioResolver>>);

impl Dns {
    /// The addresses of a host, following aliases.
    pub async fn list_addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let resolver = self.resolver(host).await?;
        // The dot keeps the search domains of the machine out of it, but hosts files have none.
        let found = match resolver.lookup_ip(host.trim_end_matches('.')).await {
            Ok(found) => found,
            Err(error) => return Err(explain(host, &error)),
        };
        let addresses: Vec<IpAddr> = found.iter().collect();
        match addresses.is_empty() {
            true => Err(DnsError::NotFound(host.to_owned())),
            false => Ok(addresses),
        }
    }

    /// The places of a service (`_matrix-fed._tcp.example.org`) in the order in which to try them
    /// (RFC 2782: by priority; of one priority, the heavier ones first); `None` when there is no
    /// such record.
    pub async fn find_service(&self, name: &str) -> Result<Option<Vec<ServicePlace>>, DnsError> {
        let resolver = self.resolver(name).await?;
        let found = match resolver.srv_lookup(format!("{name}.")).await {
            Ok(found) => found,
            Err(error) => match explain(name, &error) {
                DnsError::NotFound(_) => return Ok(None),
                failed => return Err(failed),
            },
        };
        let records = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv),
            _ => None,
        });
        let mut records: Vec<&SRV> = records.collect();
        if records.is_empty() {
            return Ok(None);
        }
        records.sort_by_key(|srv| (srv.priority, std::cmp::Reverse(srv.weight)));
        let place = |srv: &&SRV| ServicePlace {
            host: srv.target.to_utf8().trim_end_matches('.').to_owned(),
            port: srv.port,
        };
        // A target of "." says that the service is decidedly not available (RFC 2782).
        Ok(Some(records.iter().map(place).filter(|place| !place.host.is_empty()).collect()))
    }

    async fn resolver(&self, name: &str) -> Result<&TokioResolver, DnsError> {
        let make = async || {
            let mut builder = TokioResolver::builder_tokio()?;
            let options = builder.options_mut();
            options.cache_size = CACHE_ENTRIES_MAX;
            options.positive_max_ttl = Some(POSITIVE_TTL_MAX);
            options.negative_min_ttl = Some(NEGATIVE_TTL_MIN);
            options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
            builder.build()
        };
        let failed = |error: NetError| DnsError::Failed {
            name: name.to_owned(),
            reason: format!("the resolver cannot be set up: {error}"),
        };
        self.0.get_or_try_init(make).await.map_err(failed)
    }
}

fn explain(name: &str, error: &NetError) -> DnsError {
    match error.is_no_records_found() || error.is_nx_domain() {
        true => DnsError::NotFound(name.to_owned()),
        false => DnsError::Failed { name: name.to_owned(), reason: error.to_string() },
    }
}
