//! Connections of gRPC's clients.

use std::{cell::Cell, net::SocketAddr, rc::Rc};

use tokio::task::spawn_local;
use tonic::transport::{Channel, Endpoint};
use twofold_grpc::v1::{
    self as pb, operation::Kind, twofold_client::TwofoldClient, value::Kind as ValueKind,
};
use twofold_proto::time::Time;

use crate::memcached::protocol::put_key;

use super::{Answered, Common, Connection, Make};

/// The table of memcached's items.
const TABLE: &str = "memcached";

struct Client {
    channel: TwofoldClient<Channel>,
    common: Rc<Common>,
    unanswered: Cell<usize>,
}

/// Connects so many clients.
pub async fn connect(server: SocketAddr, count: usize) -> Result<Vec<Make>, String> {
    let mut made: Vec<Make> = Vec::with_capacity(count);
    for _ in 0..count {
        let endpoint = Endpoint::try_from(format!("http://{server}")).map_err(|error| error.to_string())?;
        let channel = endpoint.connect().await.map_err(|error| format!("{server}: {error}"))?;
        let channel = TwofoldClient::new(channel);
        made.push(Box::new(move |common| Rc::new(Client { channel, common, unanswered: Cell::new(0) })));
    }
    Ok(made)
}

fn read(key: u64) -> pb::Operation {
    let mut name = Vec::new();
    put_key(key, &mut name);
    let key = pb::Value { kind: Some(ValueKind::BytesValue(name.into())) };
    let read = pb::Read { key: vec![key], ..Default::default() };
    pb::Operation { table: TABLE.into(), kind: Some(Kind::Read(read)) }
}

impl Connection for Client {
    fn unanswered(&self) -> usize {
        self.unanswered.get()
    }

    fn send(self: Rc<Client>, due: Time) {
        let operations = self.common.draw().into_iter().map(read).collect();
        let request = pb::ExecuteRequest { operations, mode: pb::Mode::Independent.into(), options: None };
        self.common.sent();
        self.unanswered.set(self.unanswered.get() + 1);
        spawn_local(async move {
            let mut channel = self.channel.clone();
            let mut answered = Answered { due, ..Answered::default() };
            match channel.execute(request).await {
                Ok(response) => {
                    for result in response.into_inner().results {
                        match result.error {
                            None => answered.done += 1,
                            Some(error) => {
                                self.common.note_refusal(&error.message);
                                answered.refused += 1;
                            }
                        }
                    }
                }
                Err(status) => {
                    self.common.note_refusal(&status.to_string());
                    answered.refused = self.common.operations as u64;
                }
            }
            self.unanswered.set(self.unanswered.get() - 1);
            if let Some(due) = self.common.answered(answered) {
                self.send(due);
            }
        });
    }
}
