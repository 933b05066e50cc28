//! The Client-Server API, one file per noun of the specification.

pub mod media;
pub mod sync;
pub mod versions;
