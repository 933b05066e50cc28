//! The program: everything it does begins in [`hearth::cli`].

/// Returns memory to the system and serves many threads better than the system's allocator does. Without
/// huge pages (`no_thp`): of those, an idle server touches one word in a hundred and pays for all.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    hearth::cli::run()
}
