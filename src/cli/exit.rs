//! How the command ends: docs/exit-codes.md.

use std::{fmt, process::ExitCode};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{output, snippet};
use crate::cli::client::remedies;
use crate::text::escape;
use crate::{
    failure::{
        Failure, Reason,
        status::{DOMAIN, status_from_failure},
    },
    pb,
};

/// The code of a command that Ctrl-C or SIGTERM ended.
pub(crate) const INTERRUPTED: i32 = 130;

/// An exit code and what to say on stderr.
#[derive(Debug)]
pub(crate) struct CommandExit {
    code: u8,
    message: Option<String>,
    /// The message is ready to be shown as it is.
    rendered: bool,
}

impl CommandExit {
    pub(crate) const DONE: Self = Self {
        code: 0,
        message: None,
        rendered: false,
    };
    const FAILED: u8 = 1;
    const USAGE: u8 = 2;
    const REFUSED: u8 = 3;
    const BUSY: u8 = 4;
    const UNAVAILABLE: u8 = 5;
    const DENIED: u8 = 6;
    const CANCELLED: u8 = 7;
    const UNKNOWN: u8 = 8;
    /// stdout could not be written.
    pub(crate) const NOT_PRINTED: u8 = 9;
    const INTERRUPTED: u8 = 130;

    /// Wrong arguments or settings.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::with_code(Self::USAGE, Some(message.to_string()))
    }

    /// The state of the database does not allow it.
    pub(crate) fn refused(message: impl fmt::Display) -> Self {
        Self::with_code(Self::REFUSED, Some(message.to_string()))
    }

    /// Nobody answers, or not in time.
    pub(crate) fn unavailable(message: impl fmt::Display) -> Self {
        Self::with_code(Self::UNAVAILABLE, Some(message.to_string()))
    }

    /// The operation was accepted, and its result is not known.
    pub(crate) fn unknown(message: impl fmt::Display) -> Self {
        Self::with_code(Self::UNKNOWN, Some(message.to_string()))
    }

    /// Ctrl-C.
    pub(crate) fn interrupted(message: impl fmt::Display) -> Self {
        Self::with_code(Self::INTERRUPTED, Some(message.to_string()))
    }

    /// Any other code; what there was to say has been said.
    pub(crate) fn with_code(code: u8, message: Option<String>) -> Self {
        Self {
            code,
            message,
            rendered: false,
        }
    }

    /// A status as a result.
    pub(crate) fn from_status(status: &Status) -> Self {
        let reason = reason(status);
        let is = |r: Reason| reason.as_deref() == Some(r.as_str());
        let code = match status.code() {
            Code::Ok => 0,
            Code::InvalidArgument | Code::Unimplemented => Self::USAGE,
            Code::FailedPrecondition if is(Reason::MigrationFailed) || is(Reason::LockTimeout) => {
                Self::FAILED
            }
            Code::FailedPrecondition | Code::NotFound => Self::REFUSED,
            Code::Aborted if is(Reason::Interrupted) => Self::UNAVAILABLE,
            Code::Aborted | Code::ResourceExhausted => Self::BUSY,
            Code::Unavailable | Code::DeadlineExceeded => Self::UNAVAILABLE,
            Code::Unauthenticated | Code::PermissionDenied => Self::DENIED,
            Code::Cancelled => Self::CANCELLED,
            _ => Self::UNKNOWN,
        };
        let message = match status.code() {
            Code::Unimplemented if reason.is_none() => {
                "whoever answers there is no schemad, or it is the admin listener or another \
                 release's"
            }
            _ => status.message(),
        };
        let ways = ways(status);
        let reason = reason.unwrap_or_else(|| format!("{:?}", status.code()));
        match snippet::of(status) {
            Some(rendered) => Self {
                code,
                message: Some(rendered + &ways),
                rendered: true,
            },
            None => Self::with_code(
                code,
                Some(format!(
                    "{reason}: {}{ways}",
                    remedies::without_methods(message)
                )),
            ),
        }
    }

    /// How an operation ended that was only watched.
    pub(crate) fn from_failure(failure: Option<&pb::Failure>) -> Self {
        let Some(failure) = failure else {
            return Self::DONE;
        };
        let reason = Reason::parse(&failure.reason);
        let metadata = failure.metadata.clone().into_iter().collect();
        let failure = Failure {
            reason,
            message: failure.message.clone(),
            metadata,
            field: None,
        };
        Self::from_status(&status_from_failure(&failure))
    }

    /// What there is to say.
    pub(crate) fn text(self) -> String {
        self.message.unwrap_or_default()
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// The same with another sentence at its end.
    pub(crate) fn adding(self, sentence: &str) -> Self {
        Self {
            message: self.message.map(|message| message + sentence),
            ..self
        }
    }

    /// The same code; what there was to say has been said.
    pub(crate) fn silently(self) -> Self {
        Self {
            message: None,
            ..self
        }
    }

    /// The same message with another code.
    pub(crate) fn with(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Says the message and returns the code.
    pub(crate) fn report(self) -> ExitCode {
        let code = self.code;
        ExitCode::from(self.report_as(code))
    }

    /// Says the message and returns another code.
    pub(crate) fn report_as(self, code: u8) -> u8 {
        if let Some(message) = self.message.filter(|m| !m.is_empty()) {
            if self.rendered {
                output::progress(&message)
            } else {
                output::complain(&message)
            }
        }
        code
    }
}

/// The commands that answer the failure of this status, each on a line of its own.
fn ways(status: &Status) -> String {
    let Some(info) = status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)
    else {
        return String::new();
    };
    let ways = remedies::of_failure(Reason::parse(&info.reason), &info.metadata);
    ways.iter()
        .map(|way| format!("\n  {}", output::line(way)))
        .collect()
}

/// ErrorInfo.reason, when schemad itself answered.
pub(crate) fn reason(status: &Status) -> Option<String> {
    status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)
        .map(|info| info.reason)
}

/// The status as one JSON object on stderr.
pub(crate) fn json_error(status: &Status) -> CommandExit {
    let info = status.get_details_error_info();
    let (reason, metadata) = info
        .map(|info| (info.reason, info.metadata))
        .unwrap_or_default();
    let error = serde_json::json!({
        "code": status.code() as i32,
        "message": status.message(),
        "reason": reason,
        "metadata": metadata,
    });
    output::progress(&escape::json(&error.to_string()));
    CommandExit::from_status(status).silently()
}

/// The operation whose result this status is.
pub(crate) fn operation(status: &Status) -> Option<String> {
    status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)?
        .metadata
        .get("operation")
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_there_is_not_is_told_in_the_daemons_words_when_it_is_one() {
        let told = |status: &Status| CommandExit::from_status(status).message.unwrap();
        let ours = status_from_failure(&Failure::new(Reason::UnknownMethod, "no method x"));
        assert_eq!(told(&ours), "UNKNOWN_METHOD: no method x");
        assert!(told(&Status::unimplemented("")).contains("no schemad"));
    }

    /// docs/errors.md is this text; `UPDATE_DOCS=1 cargo test --lib` writes it.
    #[test]
    fn every_reason_is_documented_with_its_codes() {
        let mut text = String::from(
            "# Errors\n\nEvery error has a google.rpc.ErrorInfo with domain `schemad`, one of \
             these reasons, and data in its metadata. A status\nthat is the result of an operation \
             carries `operation` there; any other says nothing about an operation that was \
             accepted.\n\nReflection serves `google/rpc/error_details.proto`, by which a client \
             resolves the details' types (`buf curl` prints them in base64 all the same).\n\nA \
             deadline (`grpc-timeout`) ends every call, streams too: `DEADLINE_EXCEEDED`. It ends \
             no operation, which goes on in the daemon; a call\nwhose deadline has passed when it \
             arrives begins none.\n\n| reason | gRPC code | exit code | meaning |\n| --- | --- | \
             --- | --- |\n",
        );
        for reason in Reason::ALL {
            let status = status_from_failure(&Failure::new(*reason, "m"));
            let exit = CommandExit::from_status(&status).code;
            text += &format!(
                "| {reason} | {:?} | {exit} | {} |\n",
                status.code(),
                reason.doc()
            );
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), text);
    }
}
