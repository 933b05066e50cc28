//! What benchmarks of the whole program share: where its data live, and the process.

pub mod place;
pub mod process;
