//! Messages in words, for traces.

use std::fmt;

use serde::de::DeserializeOwned;
use twofold_proto::{
    ids::TransactionId,
    link::Message,
    message::{self, Kind as K},
    operation::{OperationRef, ResultRef},
    view::View,
    wire::Reader,
};

/// The operations that follow a request's head.
fn operations(reader: &mut Reader<'_>, count: u16) -> String {
    let describe = |operation: OperationRef<'_>| {
        let (kind, lock, table) = (operation.kind, operation.lock, operation.table);
        format!("{kind:?} {lock:?} {table:?} key {:02x?}", operation.key)
    };
    let all = (0..count).map(|_| OperationRef::parse(reader).map(describe).unwrap_or_default());
    all.collect::<Vec<_>>().join(" + ")
}

/// A message in words.
pub(super) fn describe(message: &Message<'_>) -> String {
    fn show<T: DeserializeOwned + fmt::Debug>(body: &[u8]) -> String {
        message::control::<T>(body).map_or_else(|error| error.to_string(), |value| format!("{value:?}"))
    }
    let Ok(kind) = K::from_number(message.kind) else { return format!("kind {}", message.kind) };
    let body = message.body;
    let text = match kind {
        K::ViewOrd => show::<View>(body),
        K::StatusReq => show::<message::StatusReq>(body),
        K::StatusConf => show::<message::StatusConf>(body),
        K::TransactionRef => show::<message::TransactionRef>(body),
        K::ExecuteRef => show::<message::ExecuteRef>(body),
        K::UndoOrd => show::<message::UndoOrd>(body),
        K::WoundOrd => show::<message::WoundOrd>(body),
        K::EndOrd => show::<TransactionId>(body),
        K::PrepareReq => show::<message::PrepareReq>(body),
        K::PrepareConf => show::<message::PrepareConf>(body),
        K::PrepareRef => show::<message::PrepareRef>(body),
        K::DecideReq => show::<message::DecideReq>(body),
        K::DecideConf => show::<message::DecideConf>(body),
        K::OutcomeReq => show::<message::OutcomeReq>(body),
        K::OutcomeConf => show::<message::OutcomeConf>(body),
        K::ReplicaStateOrd => show::<message::ReplicaStateOrd>(body),
        K::EpochOrd => show::<message::EpochOrd>(body),
        K::EpochDoneRep => show::<message::EpochDoneRep>(body),
        K::ReportOrd => show::<message::ReportOrd>(body),
        K::GoneOrd | K::GoneRep => show::<message::GoneOrd>(body),
        K::StopOrd => show::<message::StopOrd>(body),
        K::WriteSetReq => {
            let mut reader = Reader::new(body, "write set");
            let header = message::WriteSetHeader::parse(&mut reader);
            let count = header.as_ref().map_or(0, |header| header.participants);
            let participants: Vec<_> =
                (0..count).map_while(|_| message::Participant::parse(&mut reader).ok()).collect();
            format!("{header:?} {participants:?}")
        }
        K::DecideOrd => format!("{:?}", message::DecideOrd::parse(body)),
        K::TransactionReq => {
            let mut reader = Reader::new(body, "transaction");
            let request = message::TransactionReq::parse(&mut reader);
            let count = request.as_ref().map_or(0, |request| request.operations);
            format!("{request:?} {}", operations(&mut reader, count))
        }
        K::ExecuteReq => {
            let mut reader = Reader::new(body, "execute");
            format!("{:?}", message::ExecuteReq::parse(&mut reader))
        }
        K::TransactionConf => {
            let mut reader = Reader::new(body, "transaction");
            format!("{:?}", message::TransactionConf::parse(&mut reader))
        }
        K::WriteReq => {
            let mut reader = Reader::new(body, "write");
            let write = message::IndependentWrite::parse(&mut reader);
            format!("{write:?} {}", operations(&mut reader, 1))
        }
        K::ReadReq => {
            let mut reader = Reader::new(body, "read");
            format!("request {:?} {}", reader.u32(), operations(&mut reader, 1))
        }
        K::OperationConf => {
            let mut reader = Reader::new(body, "result");
            let request = reader.u32();
            format!("request {request:?} {:?}", ResultRef::parse(&mut reader).map(|result| result.head))
        }
        K::OperationRef => format!("{:?}", message::operation_ref(body)),
        _ => String::new(),
    };
    format!("{kind:?} {text}")
}
