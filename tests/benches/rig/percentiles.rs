//! The summary of many times.

use std::time::Duration;

/// Half, 99 of 100 and the longest of these, ms.
pub fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |percent: usize| {
        let place = (times.len() * percent / 100).min(times.len() - 1);
        times[place].as_secs_f64() * 1000.0
    };
    format!("p50 {:.3}, p99 {:.3}, max {:.3}", at(50), at(99), at(100))
}
