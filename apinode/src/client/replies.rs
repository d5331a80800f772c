//! Answers to single operations, many in one buffer.

use twofold_proto::error::Error;

use crate::request::Failure;

/// The answers that came with one input: two allocations, however many there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    replies: Vec<Reply>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Reply {
    token: u64,
    /// Where its bytes end; they begin where those of the one before end.
    end: u32,
    failure: Option<Box<Failure>>,
}

impl Replies {
    /// None yet, with room for as many as these.
    pub(super) fn like(other: &Replies) -> Replies {
        let (bytes, replies) = (other.bytes.len(), other.replies.len());
        Replies { bytes: Vec::with_capacity(bytes), replies: Vec::with_capacity(replies) }
    }

    pub(super) fn push(&mut self, token: u64, result: Result<&[u8], Failure>) {
        let failure = match result {
            Ok(bytes) => {
                self.bytes.extend_from_slice(bytes);
                None
            }
            Err(failure) => Some(Box::new(failure)),
        };
        let end = u32::try_from(self.bytes.len()).expect("the answers of one input are below 4 GiB");
        self.replies.push(Reply { token, end, failure });
    }

    pub(super) fn push_error(&mut self, token: u64, error: Error) {
        self.push(token, Err(error.into()));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.replies.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// The token of each operation, and its result (`proto::result`) or why there is none.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Result<&[u8], &Failure>)> {
        let mut start = 0;
        self.replies.iter().map(move |reply| {
            let bytes = &self.bytes[start..reply.end as usize];
            start = reply.end as usize;
            (reply.token, reply.failure.as_deref().map_or(Ok(bytes), Err))
        })
    }
}

#[cfg(test)]
mod tests {
    use twofold_proto::error::ErrorCode;

    use super::*;

    #[test]
    fn replies_keep_their_order_and_bytes() {
        let mut replies = Replies::default();
        let failure = Failure::from(Error::new(ErrorCode::TableFull, "no memory for table t"));
        replies.push(7, Ok(b"seven"));
        replies.push(8, Err(failure.clone()));
        replies.push(9, Ok(b""));
        replies.push(7, Ok(b"again"));
        let all: Vec<_> = replies.iter().collect();
        assert_eq!(
            all,
            [(7, Ok(&b"seven"[..])), (8, Err(&failure)), (9, Ok(&b""[..])), (7, Ok(&b"again"[..]))]
        );
    }
}
