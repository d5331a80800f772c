//! Errors as MySQL's clients know them: a number, an SQLSTATE, a sentence.

use std::fmt;

use twofold_proto::error::{Error, ErrorCode};

/// A number of MySQL's, and the SQLSTATE that goes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code {
    /// The number, by which drivers know what to do.
    pub number: u16,
    /// The SQLSTATE.
    pub state: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $state:literal;)*) => {
        /// Those that are used, by what they mean.
        pub mod codes {
            use super::Code;
            $($(#[$doc])* pub const $name: Code = Code { number: $number, state: $state };)*
        }
    };
}

codes! {
    /// The database is there already.
    DATABASE_EXISTS = 1007, "HY000";
    /// The database to be dropped is not there.
    NO_DATABASE_TO_DROP = 1008, "HY000";
    /// Too many connections.
    TOO_MANY_CONNECTIONS = 1040, "08004";
    /// Nothing may be done there.
    DATABASE_DENIED = 1044, "42000";
    /// Wrong user or password.
    ACCESS_DENIED = 1045, "28000";
    /// No database is chosen.
    NO_DATABASE = 1046, "3D000";
    /// A command that the protocol does not have.
    UNKNOWN_COMMAND = 1047, "08S01";
    /// NULL for a column that has none.
    NULL_VALUE = 1048, "23000";
    /// There is no such database.
    UNKNOWN_DATABASE = 1049, "42000";
    /// The table is there already.
    TABLE_EXISTS = 1050, "42S01";
    /// The table to be dropped is not there.
    NO_TABLE_TO_DROP = 1051, "42S02";
    /// A column's name that may mean several.
    AMBIGUOUS_COLUMN = 1052, "23000";
    /// There is no such column.
    UNKNOWN_COLUMN = 1054, "42S22";
    /// The server is stopping.
    STOPPING = 1053, "08S01";
    /// A column that is neither grouped by nor aggregated.
    NOT_GROUPED = 1055, "42000";
    /// A name that is too long.
    NAME_TOO_LONG = 1059, "42000";
    /// Two columns of one name.
    DUPLICATE_COLUMN = 1060, "42S21";
    /// Two indexes of one name.
    DUPLICATE_KEY_NAME = 1061, "42000";
    /// No such index, or it cannot go.
    CANNOT_DROP_KEY = 1091, "42000";
    /// The key is there already.
    DUPLICATE_KEY = 1062, "23000";
    /// Text that is no statement.
    SYNTAX = 1064, "42000";
    /// Two tables of one name in a statement.
    SAME_ALIAS = 1066, "42000";
    /// More tables than a statement may join.
    TOO_MANY_TABLES = 1116, "HY000";
    /// More columns than a query may have.
    TOO_MANY_COLUMNS = 1117, "HY000";
    /// The table that is changed is read by the same statement.
    CHANGED_TABLE = 1093, "HY000";
    /// SELECTs of a UNION give other numbers of columns.
    UNION_COLUMNS = 1222, "21000";
    /// A subquery that stands for a value gives several rows.
    SEVERAL_ROWS = 1242, "21000";
    /// A derived table without a name.
    NO_DERIVED_ALIAS = 1248, "42000";
    /// ORDER BY of a UNION by a table's column.
    ORDER_OF_PART = 1250, "42000";
    /// More or fewer names than columns.
    NAME_COUNT = 1353, "HY000";
    /// A name that an index cannot have.
    WRONG_KEY_NAME = 1280, "42000";
    /// Nothing was asked.
    EMPTY_QUERY = 1065, "42000";
    /// A default that the column cannot have.
    INVALID_DEFAULT = 1067, "42000";
    /// A second primary key.
    TWO_PRIMARY_KEYS = 1068, "42000";
    /// A key that is too long.
    KEY_TOO_LONG = 1071, "42000";
    /// A key of a column that there is not.
    NO_KEY_COLUMN = 1072, "42000";
    /// A number of characters that columns of the type cannot have.
    COLUMN_TOO_LONG = 1074, "42000";
    /// An AUTO_INCREMENT column that is no key, or a second one.
    BAD_AUTO_INCREMENT = 1075, "42000";
    /// What a connection is told that may not go on.
    BAD_HANDSHAKE = 1043, "08S01";
    /// There is no such connection.
    NO_SUCH_CONNECTION = 1094, "HY000";
    /// Anything that has no number of its own.
    UNKNOWN_ERROR = 1105, "HY000";
    /// There is no such table of `information_schema`.
    UNKNOWN_TABLE = 1109, "42S02";
    /// A column is named twice.
    COLUMN_TWICE = 1110, "42000";
    /// An aggregate where there can be none.
    MISPLACED_AGGREGATE = 1111, "HY000";
    /// A table without columns.
    NO_COLUMNS = 1113, "42000";
    /// No memory for more rows.
    TABLE_FULL = 1114, "HY000";
    /// A character set that there is not.
    UNKNOWN_CHARSET = 1115, "42000";
    /// A row over the limit.
    ROW_TOO_LARGE = 1118, "42000";
    /// The host may not connect.
    HOST_NOT_ALLOWED = 1130, "HY000";
    /// Another number of values than of columns.
    VALUE_COUNT = 1136, "21S01";
    /// There is no such table.
    NO_SUCH_TABLE = 1146, "42S02";
    /// The packet is too large.
    PACKET_TOO_LARGE = 1153, "08S01";
    /// A packet that does not come in turn.
    PACKETS_OUT_OF_ORDER = 1156, "08S01";
    /// A column's type that cannot be in a key.
    BLOB_KEY = 1170, "42000";
    /// A key column that may be NULL.
    NULLABLE_KEY = 1171, "42000";
    /// The table has no primary key.
    NO_PRIMARY_KEY = 1173, "42000";
    /// The commit's outcome is not known.
    COMMIT_PENDING = 1180, "HY000";
    /// There is no such variable.
    UNKNOWN_VARIABLE = 1193, "HY000";
    /// The transaction is too large.
    TRANSACTION_TOO_LARGE = 1197, "HY000";
    /// A lock was not to be had in time.
    LOCK_WAIT_TIMEOUT = 1205, "HY000";
    /// Columns of no table.
    NO_TABLES_USED = 1096, "HY000";
    /// A table placed by columns that are not of its primary key.
    PARTITION_OUTSIDE_KEY = 1503, "HY000";
    /// Wrong arguments.
    WRONG_ARGUMENTS = 1210, "HY000";
    /// The transaction was rolled back for another one; try it again.
    DEADLOCK = 1213, "40001";
    /// The number of columns of two rows differs.
    OPERAND_COLUMNS = 1241, "21000";
    /// A variable of another kind.
    GLOBAL_VARIABLE = 1229, "HY000";
    /// A variable cannot have this value.
    WRONG_VARIABLE_VALUE = 1231, "42000";
    /// A variable needs a value of another type.
    WRONG_VARIABLE_TYPE = 1232, "42000";
    /// This version does not do it.
    NOT_SUPPORTED = 1235, "42000";
    /// The variable cannot be set.
    READ_ONLY_VARIABLE = 1238, "HY000";
    /// There is no such prepared statement.
    UNKNOWN_PREPARED = 1243, "HY000";
    /// An aggregate without arguments, or the like.
    WRONG_PARAMETER_COUNT = 1582, "42000";
    /// The client does not do what it would have to.
    AUTH_UNSUPPORTED = 1251, "08004";
    /// Two things of one name.
    NOT_UNIQUE_TABLE = 1066, "42000";
    /// A number does not fit the column.
    OUT_OF_RANGE = 1264, "22003";
    /// The value was cut, as a note or a warning.
    DATA_TRUNCATED = 1265, "01000";
    /// A collation that there is not.
    UNKNOWN_COLLATION = 1273, "HY000";
    /// A value that makes no sense as that type, as a warning or an error.
    WRONG_VALUE = 1292, "22007";
    /// Something went wrong for a moment.
    TEMPORARY = 1297, "HY000";
    /// Bytes that are no text.
    NOT_UTF8 = 1300, "HY000";
    /// There is no such function.
    UNKNOWN_FUNCTION = 1305, "42000";
    /// There is no such savepoint.
    UNKNOWN_SAVEPOINT = 1305, "42000";
    /// A column has no default value.
    NO_DEFAULT = 1364, "HY000";
    /// Division by zero.
    DIVISION_BY_ZERO = 1365, "22012";
    /// A value that makes no sense in its column.
    WRONG_VALUE_FOR_COLUMN = 1366, "HY000";
    /// More placeholders than a statement may have.
    TOO_MANY_PLACEHOLDERS = 1390, "HY000";
    /// Text or binary that is longer than the column.
    DATA_TOO_LONG = 1406, "22001";
    /// The table was changed meanwhile; try again.
    TABLE_CHANGED = 1412, "HY000";
    /// More scale than precision.
    SCALE_OVER_PRECISION = 1427, "42000";
    /// More digits than a type has.
    TOO_BIG_SCALE = 1425, "42000";
    /// More precision than a type has.
    TOO_BIG_PRECISION = 1426, "42000";
    /// Nested too deeply.
    STACK_OVERRUN = 1436, "HY000";
    /// More prepared statements than a connection may have.
    TOO_MANY_PREPARED = 1461, "42000";
    /// The isolation level cannot change within a transaction.
    TRANSACTION_IN_PROGRESS = 1568, "25001";
    /// Nothing may be written in this transaction.
    READ_ONLY_TRANSACTION = 1792, "25006";
    /// A number does not fit its type.
    NUMBER_OUT_OF_RANGE = 1690, "22003";
    /// A broken promise of ours.
    INTERNAL = 1815, "HY000";
    /// A packet that makes no sense.
    MALFORMED_PACKET = 1835, "HY000";
    /// The statement needs more memory than it may have.
    OUT_OF_SORT_MEMORY = 1038, "HY001";
    /// Prepared statements are of one statement.
    NOT_PREPARABLE = 1295, "HY000";
}

/// An error that a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SqlError {
    /// Its number and SQLSTATE.
    pub code: Code,
    /// What is wrong, as MySQL would word it where it knows the case.
    pub text: String,
}

impl SqlError {
    /// An error with this code and sentence.
    pub fn new(code: Code, text: impl Into<String>) -> SqlError {
        SqlError { code, text: text.into() }
    }

    /// A row with this key is there already.
    pub fn duplicate_entry(values: &str, table: &str, key: &str) -> SqlError {
        SqlError::new(codes::DUPLICATE_KEY, format!("Duplicate entry '{values}' for key '{table}.{key}'"))
    }

    /// Likewise, of a unique index; `values` as [`twofold_proto::unique::entry_text`] has them.
    pub fn duplicate_values(values: &str, table: &str, key: &str) -> SqlError {
        let inner = values.strip_prefix('(').and_then(|values| values.strip_suffix(')')).unwrap_or(values);
        let values: Vec<&str> = inner.split(", ").map(|value| value.trim_matches('"')).collect();
        SqlError::duplicate_entry(&values.join("-"), table, key)
    }

    /// This version does not do that.
    pub fn not_supported(what: impl fmt::Display) -> SqlError {
        SqlError::new(codes::NOT_SUPPORTED, format!("This version of Twofold doesn't yet support '{what}'"))
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.code.number
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code.number, self.code.state, self.text)
    }
}

impl std::error::Error for SqlError {}

/// What the cluster says. Where MySQL has a number by which drivers know what to do, it is that one: 1213 for what is to be tried
/// again as a transaction, 1205 as a statement, 1297 for what passes.
impl From<Error> for SqlError {
    fn from(error: Error) -> SqlError {
        use ErrorCode::*;
        let code = match error.code {
            Malformed | Internal => codes::INTERNAL,
            NoSuchTable => codes::NO_SUCH_TABLE,
            StaleSchema => codes::TABLE_CHANGED,
            IndexExists => codes::DUPLICATE_KEY_NAME,
            NoSuchIndex => codes::CANNOT_DROP_KEY,
            TooLarge => codes::TRANSACTION_TOO_LARGE,
            RowTooLarge => codes::ROW_TOO_LARGE,
            KeyTooLarge => codes::KEY_TOO_LONG,
            DuplicateEntry => codes::DUPLICATE_KEY,
            BadColumn => codes::UNKNOWN_COLUMN,
            BadValue => codes::WRONG_VALUE_FOR_COLUMN,
            TableExists => codes::TABLE_EXISTS,
            DuplicateKey => codes::DUPLICATE_KEY,
            NotSupported => codes::NOT_SUPPORTED,
            Deadlock | PrimaryChanged | NoSuchTransaction | TransactionFailed => codes::DEADLOCK,
            LockWaitTimeout | Timeout => codes::LOCK_WAIT_TIMEOUT,
            NotServing | Overloaded | TooMany | NoLeader => codes::TEMPORARY,
            Stopping => codes::STOPPING,
            OutcomePending => codes::COMMIT_PENDING,
            TableFull => codes::TABLE_FULL,
            BadTable | NoSuchRow | ConditionFalse | BadConfig | JoinRefused | LastOfGroup | NoSuchNode
            | RegisterLost | NotRunning | NotRebuilt => codes::UNKNOWN_ERROR,
        };
        if error.code == DuplicateEntry
            && let Some(told) = in_own_words(&error.text)
        {
            return told;
        }
        SqlError::new(code, error.to_string())
    }
}

/// The table, the index and the values in what data nodes say of a duplicate, in MySQL's words.
fn in_own_words(text: &str) -> Option<SqlError> {
    let (table, rest) = text.strip_prefix("table `")?.split_once("`, unique index `")?;
    let (index, rest) = rest.split_once("`: another row has ")?;
    let table = table.split_once('.').map_or(table, |(_, table)| table);
    Some(SqlError::duplicate_values(rest.strip_suffix(" already")?, table, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drivers_try_again_has_the_numbers_that_they_know() {
        let number = |code| SqlError::from(Error::new(code, "x")).number();
        assert_eq!([ErrorCode::Deadlock, ErrorCode::PrimaryChanged].map(number), [1213, 1213]);
        assert_eq!([ErrorCode::LockWaitTimeout, ErrorCode::TableFull].map(number), [1205, 1114]);
        let text = "table `d.t`, unique index `i`: another row has (5, \"x\") already";
        let error = SqlError::from(Error::new(ErrorCode::DuplicateEntry, text));
        assert_eq!((error.number(), &*error.text), (1062, "Duplicate entry '5-x' for key 't.i'"));
        for &code in ErrorCode::ALL {
            let error = SqlError::from(Error::new(code, "x"));
            assert!(error.code.state.len() == 5 && error.text.starts_with("TF-"), "{error}");
        }
    }
}
