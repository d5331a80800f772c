//! Errors, as a program meets them.

use std::fmt;

use twofold_apinode::request::{Failure, TransactionToken};
use twofold_proto::{
    error::{self, ErrorClass, ErrorCode},
    message::TransactionState,
};

/// Names a transaction whose outcome may be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(pub(crate) TransactionToken);

impl Token {
    /// Bytes for another process, which [`Token::from_bytes`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// Reads what [`Token::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`ErrorCode::Malformed`] for any other bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Token, Error> {
        Ok(Token(TransactionToken::decode(bytes)?))
    }
}

/// Why something was not done, or may not have been. Its [class](Error::class) says what to do.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Failure>);

impl Error {
    /// What went wrong. Codes are stable.
    pub fn code(&self) -> ErrorCode {
        self.0.error.code
    }

    /// What the caller had better do: try again ([`ErrorClass::Temporary`]: nothing was applied), not try again as it is
    /// ([`ErrorClass::Permanent`]: nothing was applied), or ask ([`ErrorClass::Unknown`]: with [`Error::token`]).
    pub fn class(&self) -> ErrorClass {
        self.code().class()
    }

    /// Whether nothing was applied, and the same may succeed if it is tried again.
    pub fn is_temporary(&self) -> bool {
        self.class() == ErrorClass::Temporary
    }

    /// The place of the operation at fault, where it is one of several.
    pub fn operation(&self) -> Option<usize> {
        self.0.operation.map(usize::from)
    }

    /// Of a commit whose outcome is unknown: what to ask [`Cluster::status`](crate::Cluster::status) with.
    pub fn token(&self) -> Option<Token> {
        self.0.token.map(Token)
    }

    /// Of an interactive transaction: whether it can go on, without the statement that failed.
    pub fn leaves_open(&self) -> bool {
        self.0.state == TransactionState::Open
    }

    /// The age of the transaction, for a retry; 0: it has none.
    pub(crate) fn age(&self) -> u64 {
        self.0.timestamp
    }

    pub(crate) fn new(code: ErrorCode, text: impl Into<String>) -> Error {
        error::Error::new(code, text).into()
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error(Box::new(failure))
    }
}

impl From<error::Error> for Error {
    fn from(error: error::Error) -> Error {
        Failure::from(error).into()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.error.fmt(f)
    }
}

impl std::error::Error for Error {}
