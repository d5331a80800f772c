//! The MySQL client/server protocol as bytes: packets, handshake, commands, results. No IO.
//!
//! Facts are from the protocol's public description (MySQL's «Client/Server Protocol» pages, MariaDB's «Clients & Servers»).

pub mod command;
pub mod handshake;
pub mod packet;
pub mod password;
pub mod result;

/// What client and server can do, as both say in the handshake.
pub mod capability {
    /// Affected rows are those that were found, not those that were changed.
    pub const FOUND_ROWS: u32 = 1 << 1;
    /// The handshake may name a database.
    pub const CONNECT_WITH_DB: u32 = 1 << 3;
    /// The handshake and all after it have the layout of MySQL 4.1.
    pub const PROTOCOL_41: u32 = 1 << 9;
    /// The client goes on with TLS.
    pub const SSL: u32 = 1 << 11;
    /// Passwords are scrambled as since MySQL 4.1.
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    /// A query may be several statements.
    pub const MULTI_STATEMENTS: u32 = 1 << 16;
    /// The handshake names the authentication method.
    pub const PLUGIN_AUTH: u32 = 1 << 19;
    /// The handshake tells things about the client.
    pub const CONNECT_ATTRS: u32 = 1 << 20;
    /// The scrambled password has a length of LEB kind.
    pub const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
    /// Results end with an OK instead of an EOF.
    pub const DEPRECATE_EOF: u32 = 1 << 24;

    /// What this server offers: the above, and long passwords (1), long flags (4), ODBC (64), spaces after function
    /// names (256), interactive clients (1024), transactions (8192), several results (17), also of prepared ones (18).
    pub const OFFERED: u32 = FOUND_ROWS
        | CONNECT_WITH_DB
        | PROTOCOL_41
        | SECURE_CONNECTION
        | MULTI_STATEMENTS
        | PLUGIN_AUTH
        | CONNECT_ATTRS
        | PLUGIN_AUTH_LENENC
        | DEPRECATE_EOF
        | 1
        | 1 << 2
        | 1 << 6
        | 1 << 8
        | 1 << 10
        | 1 << 13
        | 1 << 17
        | 1 << 18;
}

/// What a server says of a session with each answer.
pub mod status {
    /// A transaction is open.
    pub const IN_TRANSACTION: u16 = 1;
    /// Each statement is a transaction of its own.
    pub const AUTOCOMMIT: u16 = 1 << 1;
    /// Another result follows.
    pub const MORE_RESULTS: u16 = 1 << 3;
}

/// Collations by their numbers on the wire.
pub mod collation {
    /// Bytes, not text.
    pub const BINARY: u16 = 63;
    /// utf8mb4_0900_bin: text by its code points.
    pub const UTF8MB4_0900_BIN: u16 = 309;
}
