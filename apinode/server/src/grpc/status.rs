//! Errors as gRPC's users expect them.

use std::{collections::HashMap, time::Duration};

use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};
use twofold_apinode::request::Failure;
use twofold_grpc::v1 as pb;
use twofold_proto::error::{Error, ErrorClass, ErrorCode};

/// Whose codes stand in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "twofold";

/// The status that a caller reacts to as it should to this error.
pub fn code(code: ErrorCode) -> Code {
    use ErrorCode::*;
    match code {
        Malformed | TooLarge | RowTooLarge | KeyTooLarge | BadColumn | BadValue | BadTable | BadConfig => {
            Code::InvalidArgument
        }
        NoSuchTable | NoSuchRow | NoSuchNode | NoSuchIndex => Code::NotFound,
        TableExists | DuplicateKey | DuplicateEntry | IndexExists => Code::AlreadyExists,
        ConditionFalse | LastOfGroup | NotRunning | RegisterLost | NotRebuilt => Code::FailedPrecondition,
        NotSupported => Code::Unimplemented,
        Deadlock | LockWaitTimeout | PrimaryChanged | NoSuchTransaction | TransactionFailed => Code::Aborted,
        StaleSchema | NotServing | Stopping | NoLeader => Code::Unavailable,
        Overloaded | TableFull | TooMany => Code::ResourceExhausted,
        OutcomePending | Timeout => Code::DeadlineExceeded,
        JoinRefused => Code::PermissionDenied,
        Internal => Code::Internal,
    }
}

/// The class of an error, as users read it.
fn class(code: ErrorCode) -> &'static str {
    match code.class() {
        ErrorClass::Temporary => "temporary",
        ErrorClass::Permanent => "permanent",
        ErrorClass::Unknown => "unknown",
    }
}

/// In how long trying again may help, where it does not at once: who waits for a takeover, or for others to be served.
fn retry_delay(code: ErrorCode) -> Option<Duration> {
    match code {
        ErrorCode::NotServing | ErrorCode::Stopping => Some(Duration::from_millis(20)),
        ErrorCode::Overloaded => Some(Duration::from_millis(100)),
        ErrorCode::NoLeader => Some(Duration::from_millis(500)),
        _ => None,
    }
}

/// The status of a call that failed so.
pub fn status(failure: &Failure) -> Status {
    let error = &failure.error;
    let mut info = HashMap::from([
        ("class".to_string(), class(error.code).to_string()),
        ("advice".to_string(), error.code.advice().to_string()),
    ]);
    if let Some(operation) = failure.operation {
        info.insert("operation".into(), operation.to_string());
    }
    let mut metadata = MetadataMap::new();
    let text = error.code.to_string();
    metadata.insert("twofold-code", MetadataValue::try_from(&text).expect("a code is ASCII"));
    if let Some(token) = &failure.token {
        metadata.insert_bin("twofold-token-bin", MetadataValue::from_bytes(&token.encode()));
    }
    let mut details = ErrorDetails::with_error_info(text, DOMAIN, info);
    if let Some(delay) = retry_delay(error.code) {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details_and_metadata(code(error.code), error.to_string(), details, metadata)
}

/// The status of a call that failed so, of itself.
pub fn error_status(error: Error) -> Status {
    status(&error.into())
}

/// The error as a part of an answer.
pub fn error_message(failure: &Failure) -> pb::Error {
    let error = &failure.error;
    pb::Error {
        code: error.code.to_string(),
        grpc_code: code(error.code) as i32,
        message: error.to_string(),
        temporary: error.code.class() == ErrorClass::Temporary,
        unknown: error.code.class() == ErrorClass::Unknown,
        operation: failure.operation.map(u32::from),
        retry_delay_ms: retry_delay(error.code).map_or(0, |delay| delay.as_millis() as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_all_that_the_error_does() {
        let error = Error::new(ErrorCode::DuplicateKey, "table `t` has that row");
        let status = status(&Failure { operation: Some(3), ..error.into() });
        assert_eq!(status.code(), Code::AlreadyExists);
        let text = "TF-1011: table `t` has that row; use another key, or write instead of insert";
        assert_eq!(status.message(), text);
        assert_eq!(status.metadata().get("twofold-code").unwrap(), "TF-1011");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("TF-1011", "twofold"));
        assert_eq!(
            (info.metadata["operation"].as_str(), info.metadata["class"].as_str()),
            ("3", "permanent")
        );
    }

    #[test]
    fn who_had_better_wait_is_told_for_how_long() {
        let failure: Failure = Error::new(ErrorCode::Overloaded, "busy").into();
        let delay = status(&failure).get_details_retry_info().unwrap().retry_delay;
        assert_eq!((delay, error_message(&failure).retry_delay_ms), (Some(Duration::from_millis(100)), 100));
        let failure: Failure = Error::new(ErrorCode::Deadlock, "lost").into();
        assert!(status(&failure).get_details_retry_info().is_none());
        for &error in ErrorCode::ALL.iter().filter(|&&error| retry_delay(error).is_some()) {
            assert_eq!(error.class(), ErrorClass::Temporary, "{error}");
        }
    }

    #[test]
    fn what_may_be_tried_again_has_a_code_that_says_so() {
        let again = [Code::Aborted, Code::Unavailable, Code::ResourceExhausted, Code::DeadlineExceeded];
        for &error in ErrorCode::ALL {
            assert_eq!(again.contains(&code(error)), error.class() != ErrorClass::Permanent, "{error}");
        }
    }
}
