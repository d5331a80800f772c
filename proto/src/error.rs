//! What can go wrong, as users see it: a stable code, a class that says what the caller does, a sentence that names
//! the object.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a caller does about an error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorClass {
    /// Nothing was applied; the same may succeed if tried again.
    Temporary,
    /// Nothing was applied; the same will fail again.
    Permanent,
    /// It may have been applied: ask for the transaction's outcome.
    Unknown,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $class:ident, $advice:literal;)*) => {
        /// The stable codes, written `TF-1001`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl ErrorCode {
            /// All codes, ascending.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name),*];

            /// The code with this number.
            pub fn from_number(number: u16) -> Option<ErrorCode> {
                match number {
                    $($number => Some(ErrorCode::$name),)*
                    _ => None,
                }
            }

            /// What the caller does about it.
            pub fn class(self) -> ErrorClass {
                match self {
                    $(ErrorCode::$name => ErrorClass::$class,)*
                }
            }

            /// The same for people.
            pub fn advice(self) -> &'static str {
                match self {
                    $(ErrorCode::$name => $advice,)*
                }
            }
        }
    };
}

codes! {
    /// Bytes that are no request.
    Malformed = 1001, Permanent, "correct the request";
    /// A table that the catalog does not have.
    NoSuchTable = 1002, Permanent, "create the table, or correct its name";
    /// The operation was made for another version of the table.
    StaleSchema = 1003, Temporary, "fetch the catalog and try again";
    /// More operations or bytes than one request or transaction may have.
    TooLarge = 1004, Permanent, "split the request";
    /// A row over the limit.
    RowTooLarge = 1005, Permanent, "store less in the row";
    /// A key over the limit.
    KeyTooLarge = 1006, Permanent, "use a shorter key";
    /// A column that the table does not have, or has twice in the request.
    BadColumn = 1007, Permanent, "correct the column";
    /// A value that does not fit its column.
    BadValue = 1008, Permanent, "correct the value";
    /// A table of that name is there already.
    TableExists = 1009, Permanent, "use another name, or drop the table first";
    /// A table definition that cannot be.
    BadTable = 1010, Permanent, "correct the definition";
    /// An insert found the key.
    DuplicateKey = 1011, Permanent, "use another key, or write instead of insert";
    /// An update or delete found no row.
    NoSuchRow = 1012, Permanent, "insert the row first";
    /// A condition of the operation did not hold.
    ConditionFalse = 1013, Permanent, "read the row and decide anew";
    /// Something that this version does not do.
    NotSupported = 1014, Permanent, "this version does not do that";
    /// The table has an index of that name.
    IndexExists = 1015, Permanent, "use another name, or drop the index first";
    /// An index that the table does not have.
    NoSuchIndex = 1016, Permanent, "correct the index's name";
    /// Another row has the same values in a unique index.
    DuplicateEntry = 1017, Permanent, "use other values";

    /// An older transaction needed its locks.
    Deadlock = 2001, Temporary, "try the transaction again";
    /// A lock was not to be had in time.
    LockWaitTimeout = 2002, Temporary, "try the transaction again";
    /// A node that it used is gone or has handed over.
    PrimaryChanged = 2003, Temporary, "try the transaction again";
    /// No such transaction is open here; it may have been idle for too long.
    NoSuchTransaction = 2004, Temporary, "begin the transaction again";
    /// A statement for a transaction that has failed and only waits for its end.
    TransactionFailed = 2005, Temporary, "roll back and try the transaction again";

    /// The worker does not serve the partition now, or the caller's view is old.
    NotServing = 3001, Temporary, "try again in a moment";
    /// The process is stopping.
    Stopping = 3002, Temporary, "try again with another node";
    /// Too much is waiting already.
    Overloaded = 3003, Temporary, "try again more slowly";
    /// No answer came in time, and the outcome could not be learned in time either.
    OutcomePending = 3004, Unknown, "ask for the status of the transaction";
    /// No answer came in time, and nothing was applied.
    Timeout = 3005, Temporary, "try again";

    /// No memory for more rows.
    TableFull = 4001, Temporary, "delete rows, or raise data_memory";
    /// A limit on connections, transactions or the like.
    TooMany = 4002, Temporary, "close some, or raise the limit";

    /// A config that cannot be.
    BadConfig = 5001, Permanent, "correct the config";
    /// A node that may not join.
    JoinRefused = 5002, Permanent, "correct the id, the cluster name or the address";
    /// No management leader is known.
    NoLeader = 5003, Temporary, "try again in a moment; see that a majority of the management nodes runs";
    /// It would leave a node group without a serving node.
    LastOfGroup = 5004, Permanent, "start its buddy first, or give up all rows with --force";
    /// A node that the config does not have.
    NoSuchNode = 5005, Permanent, "correct the name of the node";
    /// The management nodes run on directories that are not the ones they had.
    RegisterLost = 5006, Permanent,
        "stop the management nodes and start them with the directories that they had; without these, run `twofold mgm \
         rebuild`, which makes the register anew from what the data nodes know";
    /// A node that is asked for something and does not run.
    NotRunning = 5007, Permanent, "start it first; `twofold show` says which nodes run";
    /// The register was not rebuilt.
    NotRebuilt = 5008, Permanent, "`twofold show` says how the cluster is";

    /// A broken promise of ours.
    Internal = 9001, Permanent, "report it, with the log";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TF-{}", *self as u16)
    }
}

/// A number of things, in words: `1 table`, `2 tables`.
pub fn counted(count: usize, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

/// An error as it travels: the code, and a sentence that names the object.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Error {
    /// What kind of thing went wrong.
    pub code: ErrorCode,
    /// Which thing, and how; no newline, no full stop.
    pub text: String,
}

impl Error {
    /// An error with this code and sentence.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Error {
        Error { code, text: text.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.code, self.text, self.code.advice())
    }
}

impl std::error::Error for Error {}

impl From<crate::wire::Malformed> for Error {
    fn from(malformed: crate::wire::Malformed) -> Error {
        Error::new(ErrorCode::Malformed, malformed.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_ascend() {
        assert!(ErrorCode::ALL.windows(2).all(|pair| (pair[0] as u16) < pair[1] as u16));
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code as u16), Some(code));
        }
        assert_eq!(ErrorCode::from_number(0), None);
        assert_eq!(
            Error::new(ErrorCode::TableFull, "no memory for table users").to_string(),
            "TF-4001: no memory for table users; delete rows, or raise data_memory"
        );
    }
}
