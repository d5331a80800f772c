//! Passwords: the two ways to show that one knows it without sending it.
//!
//! Both sides know a nonce. The server keeps twice hashed passwords only, so what it keeps does not open the door.

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// Bytes of the nonce.
pub const NONCE: usize = 20;

/// The nonce that the server chooses for a connection: printable, without zero bytes.
pub fn nonce(random: [u8; NONCE]) -> [u8; NONCE] {
    random.map(|byte| b'!' + byte % 94)
}

/// How a client shows that it knows the password.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// `mysql_native_password`: SHA-1.
    Native,
    /// `caching_sha2_password`: SHA-256. The server keeps what lets it answer at once, so the client is never asked for the
    /// password itself.
    CachingSha2,
}

impl Method {
    /// By the name that clients give.
    pub fn from_name(name: &[u8]) -> Option<Method> {
        [Method::Native, Method::CachingSha2].into_iter().find(|method| method.name().as_bytes() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Method::Native => "mysql_native_password",
            Method::CachingSha2 => "caching_sha2_password",
        }
    }
}

/// A password as the server keeps it: hashed twice, by both methods.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredPassword {
    sha1: [u8; 20],
    sha256: [u8; 32],
}

impl StoredPassword {
    /// What to keep of this password.
    pub fn new(password: &[u8]) -> StoredPassword {
        StoredPassword {
            sha1: Sha1::digest(Sha1::digest(password)).into(),
            sha256: Sha256::digest(Sha256::digest(password)).into(),
        }
    }

    /// Whether who sent this answer to this nonce knows the password.
    pub fn accepts(&self, method: Method, nonce: &[u8; NONCE], answer: &[u8]) -> bool {
        match method {
            Method::Native => {
                let mask = Sha1::new().chain_update(nonce).chain_update(self.sha1).finalize();
                unmasked(answer, &mask).is_some_and(|once| same(&Sha1::digest(once), &self.sha1))
            }
            Method::CachingSha2 => {
                let mask = Sha256::new().chain_update(self.sha256).chain_update(nonce).finalize();
                unmasked(answer, &mask).is_some_and(|once| same(&Sha256::digest(once), &self.sha256))
            }
        }
    }
}

fn unmasked(answer: &[u8], mask: &[u8]) -> Option<Vec<u8>> {
    let matching = answer.len() == mask.len();
    matching.then(|| answer.iter().zip(mask).map(|(a, b)| a ^ b).collect())
}

/// Takes as long whatever they are.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE_BYTES: [u8; NONCE] = *b"abcdefghij0123456789";

    /// What a client sends.
    fn answer(method: Method, password: &[u8]) -> Vec<u8> {
        let xor = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a ^ b).collect();
        match method {
            Method::Native => {
                let once = Sha1::digest(password);
                let mask = Sha1::new().chain_update(NONCE_BYTES).chain_update(Sha1::digest(once)).finalize();
                xor(&once, &mask)
            }
            Method::CachingSha2 => {
                let once = Sha256::digest(password);
                let twice = Sha256::digest(once);
                xor(&once, &Sha256::new().chain_update(twice).chain_update(NONCE_BYTES).finalize())
            }
        }
    }

    #[test]
    fn who_knows_the_password_is_let_in() {
        let stored = StoredPassword::new(b"secret");
        for method in [Method::Native, Method::CachingSha2] {
            assert!(stored.accepts(method, &NONCE_BYTES, &answer(method, b"secret")));
            assert!(!stored.accepts(method, &NONCE_BYTES, &answer(method, b"Secret")));
            assert!(!stored.accepts(method, &[b'x'; NONCE], &answer(method, b"secret")));
            assert!(!stored.accepts(method, &NONCE_BYTES, &answer(method, b"secret")[1..]));
            assert!(!stored.accepts(method, &NONCE_BYTES, b""));
            assert_eq!(Method::from_name(method.name().as_bytes()), Some(method));
        }
        assert_eq!(Method::from_name(b"mysql_clear_password"), None);
    }

    /// The documented hash of a native password, `PASSWORD('mypass')`.
    #[test]
    fn golden_native_hash() {
        let hex: String =
            StoredPassword::new(b"mypass").sha1.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(hex, "6C8989366EAF75BB670AD8EA7A7FC1176A95CEF4");
    }

    #[test]
    fn nonces_are_printable() {
        for byte in 0..=255 {
            assert!(nonce([byte; NONCE]).iter().all(u8::is_ascii_graphic));
        }
    }
}
