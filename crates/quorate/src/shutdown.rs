//! When a long-running command ends: at a signal, or with its parent.

use std::io::Read;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::CliError;

/// How long stopping may take when the parent process is gone.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(10);

/// A token that is cancelled by SIGINT or SIGTERM, and, with `exit_with_parent`, when stdin ends.
/// A second signal ends the process at once.
pub(crate) fn token(exit_with_parent: bool) -> Result<CancellationToken, CliError> {
    let token = CancellationToken::new();
    let (interrupt, terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    tokio::spawn(watch_signals(token.clone(), interrupt, terminate));
    if exit_with_parent {
        let token = token.clone();
        // A thread of its own: a read of stdin cannot be cancelled, and must not hold up the end
        // of the runtime.
        std::thread::Builder::new()
            .name("parent-watch".to_owned())
            .spawn(move || {
                let mut buffer = [0; 256];
                let mut stdin = std::io::stdin().lock();
                while matches!(stdin.read(&mut buffer), Ok(read) if read > 0) {}
                tracing::info!("the parent process is gone, stopping");
                token.cancel();
                // An orphan must not stay, whatever it hangs on.
                std::thread::sleep(ORPHAN_PATIENCE);
                std::process::exit(1);
            })?;
    }
    Ok(token)
}

async fn watch_signals(token: CancellationToken, mut interrupt: Signal, mut terminate: Signal) {
    let mut signals = 0;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        signals += 1;
        if signals > 1 {
            // 128 + SIGINT, as a shell reports it.
            std::process::exit(130);
        }
        token.cancel();
    }
}
