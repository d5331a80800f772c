//! A conversation with the memcached frontend, without sockets.

use twofold_apinode::{
    memcached::{Connection, Step, item, item::Keyspace},
    request::{Answer, Options, Request},
};
use twofold_client::handle::Handle;
use twofold_proto::{config::MemcachedPrefix, message::CatalogChange};

use super::Fake;

/// One client's, with a cluster of its own.
pub struct Conversation {
    pub fake: Fake,
    connection: Connection,
    prefixes: Vec<MemcachedPrefix>,
    pub closed: bool,
}

impl Conversation {
    pub fn new(prefixes: Vec<MemcachedPrefix>) -> Conversation {
        Conversation { fake: Fake::new(), connection: Connection::new(), prefixes, closed: false }
    }

    /// Says this, and tells what is heard.
    pub fn say(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut heard = Vec::new();
        self.connection.input().extend_from_slice(piece);
        while !self.closed {
            let tables = self.fake.tables().newest();
            let items = Keyspace::new(&self.prefixes, |name| tables.table(name));
            let step = self.connection.step(Handle::now(), items.as_ref());
            heard.extend_from_slice(self.connection.output());
            self.connection.sent(self.connection.output().len());
            match step {
                Step::Read => break,
                Step::Close => self.closed = true,
                Step::Execute(operations) => {
                    let options = Options::default();
                    let request = Request::Independent { operations, options };
                    let Answer::Operations(results) = self.fake.answer(request) else { panic!("no results") };
                    self.connection.executed(&results);
                }
                Step::FlushAll { at } => {
                    if at <= Handle::now() {
                        self.fake.answer(Request::Change(CatalogChange::DropTable(item::TABLE.into())));
                        self.fake.answer(Request::Change(CatalogChange::CreateTable(item::table())));
                    }
                    self.connection.said(Ok("OK"));
                }
                Step::Stats { kind } => self.connection.said(Ok(match &kind[..] {
                    b"items" => "END",
                    b"reset" => "RESET",
                    _ => "ERROR",
                })),
            }
        }
        heard
    }
}
