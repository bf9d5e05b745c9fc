//! `brigade`: arguments in, exit code out.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        bucket_brigade::terminal::say(
            "brigade: two TLS providers: this is a bug, please report it",
        );
        return ExitCode::from(70);
    }
    bucket_brigade::cli::run(std::env::args_os())
}
