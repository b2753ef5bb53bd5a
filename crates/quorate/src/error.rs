//! How a command ends when it does not succeed: one line on stderr and an exit code.

use std::process::ExitCode;

use quorate_rpc::{ClientError, ConnectError};

/// Exit codes, beside 0 for success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The cluster refused, or what was asked is false.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Nobody answered in time.
    Unavailable = 3,
}

/// Why a command did not succeed.
#[derive(Debug)]
pub struct CliError {
    exit: Exit,
    error: anyhow::Error,
    hint: Option<String>,
}

impl CliError {
    /// The cluster refused, or something on this machine went wrong.
    pub fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Failed, error.into())
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, anyhow::Error::msg(message.into()))
    }

    /// Nobody answered in time.
    pub fn unavailable(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Unavailable, error.into())
    }

    fn new(exit: Exit, error: anyhow::Error) -> Self {
        Self {
            exit,
            error,
            hint: None,
        }
    }

    /// Says what was being done.
    pub fn context(mut self, doing: impl Into<String>) -> Self {
        self.error = self.error.context(doing.into());
        self
    }

    /// Says what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code that belongs to it.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Writes the one line and gives the exit code.
    pub fn report(&self) -> ExitCode {
        eprintln!("{self}");
        ExitCode::from(self.exit as u8)
    }
}

impl std::fmt::Display for CliError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        for cause in self.error.chain() {
            let message = cause.to_string();
            // Some errors repeat their cause in their own message.
            if text.contains(&message) {
                continue;
            }
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&message);
        }
        if let Some(hint) = &self.hint {
            text.push_str("; ");
            text.push_str(hint);
        }
        write!(f, "error: {}", text.replace('\n', " "))
    }
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(error)
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error)
    }
}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Connect { .. } | ConnectError::Refused { .. } => Self::unavailable(error),
            ConnectError::NoAddress | ConnectError::Address { .. } | ConnectError::Tls { .. } => {
                Self::new(Exit::Usage, error.into())
            }
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Address(error) | ClientError::Unreachable(error) => error.into(),
            ClientError::Unavailable { .. } => Self::unavailable(error).hint(
                "is the cluster running, and are --endpoints right? quorate status shows what can be reached",
            ),
            ClientError::Unknown { .. } => Self::unavailable(error)
                .hint("look whether it was applied before you repeat it"),
            ClientError::Refused(_) | ClientError::RefusedAfterUnknown(_) => Self::failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_cause_and_hint() {
        let cause = std::io::Error::other("disk\nfull");
        let error = CliError::failed(anyhow::Error::new(cause).context("cannot write"))
            .context("flush failed")
            .hint("free some space");
        assert_eq!(
            error.to_string(),
            "error: flush failed: cannot write: disk full; free some space"
        );
    }

    #[test]
    fn the_exit_code_tells_a_refusal_from_silence() {
        let refused = ClientError::Refused(tonic::Status::not_found("no such collection"));
        assert_eq!(CliError::from(refused).exit(), Exit::Failed);
        let silent = ClientError::Unavailable {
            address: "127.0.0.1:1".to_owned(),
            last: tonic::Status::unavailable("refused"),
            attempts: 3,
            elapsed: std::time::Duration::from_secs(1),
        };
        assert_eq!(CliError::from(silent).exit(), Exit::Unavailable);
        let wrong = ClientError::Address(ConnectError::NoAddress);
        assert_eq!(CliError::from(wrong).exit(), Exit::Usage);
    }
}
