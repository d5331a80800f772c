//! How a connection begins: the server's greeting, the client's answer, and who that is.

use super::{
    capability, collation,
    packet::{Packets, Payload, Put, malformed},
    password::{Method, NONCE},
};
use crate::sql::error::{SqlError, codes};

/// Bytes of a payload before the client is known.
pub const PAYLOAD_MAX: usize = 16 << 10;

/// What the server says first.
#[derive(Clone, Debug)]
pub struct Greeting<'a> {
    /// Its version, by which clients choose what they say.
    pub version: &'a str,
    /// The connection's number.
    pub connection: u32,
    /// What passwords are shown with.
    pub nonce: &'a [u8; NONCE],
    /// The state of the session, as results have it.
    pub status: u16,
}

impl Greeting<'_> {
    /// Sends it.
    pub fn put(&self, packets: &mut Packets) {
        packets.put(|out| {
            out.push(10);
            out.extend_from_slice(self.version.as_bytes());
            out.push(0);
            out.put_u32(self.connection);
            out.extend_from_slice(&self.nonce[..8]);
            out.push(0);
            out.put_u16(capability::OFFERED as u16);
            // One byte is all that there is for the collation.
            out.push(collation::UTF8MB4_0900_BIN as u8);
            out.put_u16(self.status);
            out.put_u16((capability::OFFERED >> 16) as u16);
            out.push(NONCE as u8 + 1);
            out.extend_from_slice(&[0; 10]);
            out.extend_from_slice(&self.nonce[8..]);
            out.push(0);
            out.extend_from_slice(Method::Native.name().as_bytes());
            out.push(0);
        });
    }
}

/// What a client says to that, and to change its user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// What it can do and the server offers; when the user changes, as before.
    pub capabilities: u32,
    /// Who it says it is.
    pub user: String,
    /// What shows that it knows the password; empty for none.
    pub answer: Vec<u8>,
    /// The database to use; empty for none.
    pub database: String,
    /// How it answers; `None` for a method that the server does not know.
    pub method: Option<Method>,
}

impl Login {
    /// Reads the answer to a greeting.
    ///
    /// # Errors
    /// 1043 for clients of another protocol, or that go on with TLS.
    pub fn parse(payload: &[u8]) -> Result<Login, SqlError> {
        let mut payload = Payload(payload);
        let handshake = |text: &str| SqlError::new(codes::BAD_HANDSHAKE, format!("Bad handshake: {text}"));
        let said = payload.u32().map_err(|_| handshake("that is no client of MySQL"))?;
        if said & capability::PROTOCOL_41 == 0 || said & capability::SECURE_CONNECTION == 0 {
            return Err(handshake("the client is older than MySQL 4.1, or of another protocol"));
        }
        if said & capability::SSL != 0 {
            return Err(handshake("there is no TLS here; connect without it"));
        }
        let capabilities = said & capability::OFFERED;
        // The largest packet and the character set: ours is the bound, and text is UTF-8.
        payload.bytes(4 + 1 + 23)?;
        let user = text(payload.until_zero())?;
        let answer = match capabilities & capability::PLUGIN_AUTH_LENENC != 0 {
            true => payload.string()?,
            false => short_string(&mut payload)?,
        };
        let has_database = capabilities & capability::CONNECT_WITH_DB != 0;
        let database = if has_database { text(payload.until_zero())? } else { String::new() };
        let method = method(capabilities, &mut payload);
        // What may follow are attributes of the client, which nobody needs.
        Ok(Login { capabilities, user, answer: answer.to_vec(), database, method })
    }

    /// Reads what follows the byte of COM_CHANGE_USER, of a client that can do this.
    ///
    /// # Errors
    /// 1835 if it makes no sense.
    pub fn parse_change(capabilities: u32, payload: &[u8]) -> Result<Login, SqlError> {
        let mut payload = Payload(payload);
        let user = text(payload.until_zero())?;
        let answer = short_string(&mut payload)?.to_vec();
        let database = text(payload.until_zero())?;
        if payload.0.len() >= 2 {
            payload.u16()?;
        }
        Ok(Login { capabilities, user, answer, database, method: method(capabilities, &mut payload) })
    }

    /// Whether it shows no password: some say so by a zero byte.
    pub fn is_without_password(&self) -> bool {
        matches!(self.answer[..], [] | [0])
    }
}

fn text(bytes: &[u8]) -> Result<String, SqlError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| malformed())
}

fn short_string<'a>(payload: &mut Payload<'a>) -> Result<&'a [u8], SqlError> {
    let length = payload.u8()?;
    payload.bytes(length.into())
}

/// Without a name it is what was there before there were names.
fn method(capabilities: u32, payload: &mut Payload<'_>) -> Option<Method> {
    if capabilities & capability::PLUGIN_AUTH == 0 || payload.0.is_empty() {
        return Some(Method::Native);
    }
    Method::from_name(payload.until_zero())
}

/// Asks the client to answer once more, by this method and to this nonce.
pub fn put_switch(packets: &mut Packets, method: Method, nonce: &[u8; NONCE]) {
    packets.put(|out| {
        out.push(0xfe);
        out.extend_from_slice(method.name().as_bytes());
        out.push(0);
        out.extend_from_slice(nonce);
        out.push(0);
    });
}

/// Tells a client of `caching_sha2_password` that its answer is good; OK follows.
pub fn put_fast_success(packets: &mut Packets) {
    packets.put(|out| out.extend_from_slice(&[1, 3]));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE_BYTES: [u8; NONCE] = *b"ABCDEFGHabcdefghijkl";

    fn login(capabilities: u32, rest: &[u8]) -> Vec<u8> {
        let mut payload = capabilities.to_le_bytes().to_vec();
        payload.extend_from_slice(&[0, 0, 0, 1, 45]);
        payload.extend_from_slice(&[0; 23]);
        payload.extend_from_slice(rest);
        payload
    }

    #[test]
    fn golden_greeting() {
        let mut packets = Packets::new(0);
        Greeting { version: "8.0.0", connection: 7, nonce: &NONCE_BYTES, status: 2 }.put(&mut packets);
        let payload = &packets.output()[4..];
        assert_eq!(&payload[..20], b"\x0a8.0.0\0\x07\0\0\0ABCDEFGH\0");
        let offered = capability::OFFERED.to_le_bytes();
        let rest = [&offered[..2], &[53, 2, 0], &offered[2..], &[21], &[0; 10], b"abcdefghijkl\0"].concat();
        assert_eq!(&payload[20..20 + rest.len()], rest);
        assert_eq!(&payload[20 + rest.len()..], b"mysql_native_password\0");
    }

    #[test]
    fn golden_logins() {
        let all = capability::OFFERED;
        let found = Login::parse(&login(all, b"root\0\0shop\0caching_sha2_password\0\x05abcde")).unwrap();
        assert_eq!((&found.user[..], &found.database[..]), ("root", "shop"));
        assert_eq!((found.method, found.is_without_password()), (Some(Method::CachingSha2), true));
        let old = capability::PROTOCOL_41 | capability::SECURE_CONNECTION;
        let found = Login::parse(&login(old | 1 << 31, b"me\0\x03abc")).unwrap();
        assert_eq!(
            (found.capabilities, &found.answer[..], found.method),
            (old, &b"abc"[..], Some(Method::Native))
        );
        let change = Login::parse_change(all, b"you\0\x01\0db\0\x2d\0mysql_clear_password\0").unwrap();
        assert_eq!((&change.user[..], &change.database[..], change.method), ("you", "db", None));
        assert!(change.is_without_password());
    }

    #[test]
    fn what_is_no_login_is_told_so() {
        let number = |payload: &[u8]| Login::parse(payload).unwrap_err().number();
        assert_eq!(number(b"GET"), 1043);
        assert_eq!(number(b"GET / HTTP/1.1\r\n\r\n"), 1043);
        assert_eq!(number(&login(capability::OFFERED | capability::SSL, b"")), 1043);
        assert_eq!(number(&login(capability::OFFERED, b"root\0\xfc\xff\xff")), 1835);
        assert_eq!(number(&login(capability::OFFERED, b"\xff\0\0")), 1835);
    }

    #[test]
    fn golden_switch() {
        let mut packets = Packets::new(0);
        put_switch(&mut packets, Method::Native, &NONCE_BYTES);
        assert_eq!(&packets.output()[4..], b"\xfemysql_native_password\0ABCDEFGHabcdefghijkl\0");
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut payload: Vec<u8>) {
            let _ = Login::parse_change(capability::OFFERED, &payload);
            let _ = Login::parse(&payload);
            payload.splice(0..0, login(capability::OFFERED, b""));
            let _ = Login::parse(&payload);
        }
    }
}
