//! Meta commands: what their lines say.
//!
//! They mean what they mean to memcached 1.6.45 (`doc/protocol.txt`, `proto_parser.c`); where it words an error otherwise
//! than 1.6.18 it is worded as by that.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::command::{BAD_FORMAT, KEY_MAX, Keys, signed, unsigned};

/// Words behind a key, at most.
const WORDS_MAX: usize = 17;
/// Bytes of an opaque flag, its letter included.
const OPAQUE_MAX: usize = 32;

const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";

/// Padded, but whatever the bits that padding leaves over, as memcached reads it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Which of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetaVerb {
    /// mg.
    Get,
    /// ms.
    Set,
    /// md.
    Delete,
    /// ma.
    Count,
    /// me.
    Debug,
}

/// How ms stores.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    /// Whether there is an item or not.
    #[default]
    Set,
    /// Only where there is none.
    Add,
    /// Only where there is one.
    Replace,
    /// Behind the one that is there.
    Append,
    /// Before the one that is there.
    Prepend,
}

/// What a line asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Meta<'a> {
    /// The key as it was sent.
    pub key: &'a [u8],
    /// What stands behind it.
    words: &'a [u8],
    /// `b`: the key is in base 64.
    pub binary: bool,
    /// `q`: the usual outcome is not answered.
    pub quiet: bool,
    /// `v`: tell the value.
    pub value: bool,
    /// `c`: tell the «cas unique».
    pub unique: bool,
    /// `s`: tell the value's size.
    pub size: bool,
    /// `I`: mark as stale.
    pub invalidate: bool,
    /// `x`: remove the value alone.
    pub remove_value: bool,
    /// `T`
    pub exptime: Option<i64>,
    /// `N`: what is not there is made, with this exptime.
    pub vivify: Option<i64>,
    /// `R`: what does not live as long as this is to be stored anew.
    pub recache: Option<i64>,
    /// `C`: the «cas unique» that the item has to have.
    pub compare: Option<u64>,
    /// `E`: the «cas unique» that it gets.
    pub new_unique: Option<u64>,
    /// `F`
    pub client_flags: u32,
    /// `M`, of ms.
    pub mode: Mode,
    /// `M`, of ma: count down.
    pub down: bool,
    /// `D`
    pub delta: u64,
    /// `J`
    pub initial: u64,
}

/// What stands before the flags, checked: the key, the words behind it.
///
/// # Errors
/// What memcached says.
pub(super) fn split(verb: MetaVerb, line: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let Some(key) = Keys(line).iter().next() else {
        return Err(if verb == MetaVerb::Debug { BAD_FORMAT } else { "ERROR" });
    };
    let words = &line[key.as_ptr() as usize - line.as_ptr() as usize + key.len()..];
    if key.len() > KEY_MAX {
        return Err(BAD_FORMAT);
    }
    if verb != MetaVerb::Debug && Keys(words).iter().nth(WORDS_MAX).is_some() {
        return Err(match verb {
            MetaVerb::Get => "CLIENT_ERROR options flags are too long",
            _ => "CLIENT_ERROR options flags too long",
        });
    }
    Ok((key, words))
}

impl<'a> Meta<'a> {
    /// Reads what stands behind the name of a command.
    ///
    /// # Errors
    /// What memcached says.
    pub fn parse(verb: MetaVerb, line: &'a [u8]) -> Result<Meta<'a>, &'static str> {
        let (key, mut words) = split(verb, line)?;
        if verb == MetaVerb::Set {
            // The length of the value.
            let start = words.iter().take_while(|&&byte| byte == b' ').count();
            let length = words[start..].iter().take_while(|&&byte| byte != b' ').count();
            words = &words[start + length..];
        }
        let mut meta = Meta { key, words, delta: 1, ..Meta::default() };
        if verb == MetaVerb::Debug {
            meta.binary = Keys(words).iter().next() == Some(b"b");
            meta.words = b"";
            return meta.decoded_fits().then_some(meta).ok_or(BAD_FORMAT);
        }
        let mode = meta.read_flags().map_err(|text| match verb {
            MetaVerb::Delete | MetaVerb::Count => "CLIENT_ERROR invalid or duplicate flag",
            _ => text,
        })?;
        meta.set_mode(verb, mode)?;
        if meta.flags().any(|flag| flag[0] == b'O' && flag.len() > OPAQUE_MAX) {
            return Err("CLIENT_ERROR opaque token too long");
        }
        Ok(meta)
    }

    /// The flags, each a letter and maybe something behind it.
    pub fn flags(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        Keys(self.words).iter()
    }

    /// When what a command makes expires: the last of `N` and `T` says it.
    pub fn made_exptime(&self) -> i64 {
        let last = self.flags().filter(|flag| matches!(flag[0], b'N' | b'T')).last();
        let exptime = if last.is_some_and(|flag| flag[0] == b'T') { self.exptime } else { self.vivify };
        exptime.unwrap_or_default()
    }

    /// Whether it asks for what has to be kept in a mark.
    pub fn needs_mark(&self, verb: MetaVerb) -> bool {
        let wins = verb == MetaVerb::Get && (self.vivify.is_some() || self.recache.is_some());
        wins || verb != MetaVerb::Get && (self.invalidate || self.new_unique.is_some())
    }

    /// The letter that `M` came with. One error of many is told: the last, or the first that ends the reading.
    fn read_flags(&mut self) -> Result<Option<u8>, &'static str> {
        let (mut seen, mut mode, mut error) = (0u128, None, None);
        for flag in self.flags() {
            let (letter, rest) = (flag[0], &flag[1..]);
            // As memcached has it.
            if letter >= 127 || seen >> letter & 1 != 0 {
                return Err("CLIENT_ERROR duplicate flag");
            }
            seen |= 1 << letter;
            if !self.read_flag(letter, rest)? {
                error = Some(match letter {
                    b'b' => "CLIENT_ERROR error decoding key",
                    b'J' => "CLIENT_ERROR invalid numeric initial value",
                    b'D' => "CLIENT_ERROR invalid numeric delta value",
                    b'M' => "CLIENT_ERROR incorrect length for M token",
                    b'F' => error.unwrap_or(BAD_FORMAT),
                    _ => BAD_TOKEN,
                });
            }
            if letter == b'M' {
                mode = rest.first().copied();
            }
        }
        error.map_or(Ok(mode), Err)
    }

    /// `false`: what stands behind the letter is wrong.
    fn read_flag(&mut self, letter: u8, rest: &[u8]) -> Result<bool, &'static str> {
        match letter {
            b'b' => {
                self.binary = true;
                return Ok(self.decoded_fits());
            }
            b'q' => self.quiet = true,
            b'v' => self.value = true,
            b'c' => self.unique = true,
            b's' => self.size = true,
            b'I' => self.invalidate = true,
            b'x' => self.remove_value = true,
            b'T' => self.exptime = signed(rest),
            b'N' => self.vivify = signed(rest),
            b'R' => self.recache = signed(rest),
            b'C' => self.compare = unsigned(rest),
            b'E' => self.new_unique = unsigned(rest),
            b'F' | b'D' | b'J' => {
                let Some(number) = unsigned(rest) else { return Ok(false) };
                match letter {
                    b'D' => self.delta = number,
                    b'J' => self.initial = number,
                    _ => match u32::try_from(number) {
                        Ok(flags) => self.client_flags = flags,
                        Err(_) => return Ok(false),
                    },
                }
            }
            b'M' => return Ok(rest.len() == 1),
            b'O' | b'P' | b'L' | b'k' | b't' | b'f' | b'l' | b'h' | b'u' => {}
            _ => return Err("CLIENT_ERROR invalid flag"),
        }
        Ok(match letter {
            b'T' => self.exptime.is_some(),
            b'N' => self.vivify.is_some(),
            b'R' => self.recache.is_some(),
            b'C' => self.compare.is_some(),
            b'E' => self.new_unique.is_some(),
            _ => true,
        })
    }

    fn set_mode(&mut self, verb: MetaVerb, mode: Option<u8>) -> Result<(), &'static str> {
        match (verb, mode) {
            (MetaVerb::Set, Some(letter)) => {
                self.mode = match letter {
                    b'S' => Mode::Set,
                    b'E' => Mode::Add,
                    b'R' => Mode::Replace,
                    b'A' => Mode::Append,
                    b'P' => Mode::Prepend,
                    _ => return Err("CLIENT_ERROR invalid mode for ms M token"),
                }
            }
            (MetaVerb::Count, Some(letter)) => {
                self.down = match letter {
                    b'I' | b'+' => false,
                    b'D' | b'-' => true,
                    _ => return Err("CLIENT_ERROR invalid mode for ma M token"),
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn decoded_fits(&self) -> bool {
        let mut decoded = [0; KEY_MAX];
        !self.binary || BASE64.decode_slice(self.key, &mut decoded).is_ok_and(|length| length > 0)
    }

    /// The key; `decoded` is where it goes if it has to be decoded.
    pub fn plain_key<'k>(&'k self, decoded: &'k mut Vec<u8>) -> &'k [u8] {
        if !self.binary {
            return self.key;
        }
        decoded.clear();
        BASE64.decode_vec(self.key, decoded).expect("it was decoded when the line was parsed");
        decoded
    }
}

#[cfg(test)]
#[path = "meta_tests.rs"]
mod tests;
