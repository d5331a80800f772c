//! A client of the MySQL protocol, for ours and for the real one.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use twofold_apinode::sql::wire::packet::{Packets, Payload, Put};

/// What is asked for of the server: databases, several statements, and what has to be.
const CAPABILITIES: u32 = 1 << 9 | 1 << 13 | 1 << 15 | 1 << 16 | 1 << 17 | 1 << 19;

/// A row, as text.
pub type Row = Vec<Option<Vec<u8>>>;

/// What a statement has come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Rows changed, and the number that was chosen.
    Done { affected: u64, insert_id: u64, warnings: u16 },
    /// The columns' names, and rows.
    Rows { names: Vec<String>, rows: Vec<Row>, warnings: u16 },
    /// It has failed.
    Failed { number: u16, text: String },
}

impl Heard {
    /// The rows as text, NULL as `NULL`.
    pub fn texts(&self) -> Vec<Vec<String>> {
        let Heard::Rows { rows, .. } = self else { panic!("{self:?}") };
        let text = |value: &Option<Vec<u8>>| match value {
            None => "NULL".to_owned(),
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        };
        rows.iter().map(|row| row.iter().map(text).collect()).collect()
    }

    /// The error's number; 0 if there is none.
    pub fn number(&self) -> u16 {
        if let Heard::Failed { number, .. } = self { *number } else { 0 }
    }
}

/// A connection.
pub struct Client {
    stream: TcpStream,
    packets: Packets,
}

impl Client {
    /// Connects as root, without a password.
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Client { stream, packets: Packets::new(64 << 20) };
        assert_eq!(client.payload()[0], 10, "a greeting");
        client.packets.put(|out| {
            out.put_u32(CAPABILITIES);
            out.put_u32(1 << 24);
            // utf8mb4_general_ci; of old both know it.
            out.push(45);
            out.extend_from_slice(&[0; 23]);
            out.extend_from_slice(b"root\0\0mysql_native_password\0");
        });
        client.send();
        assert_eq!(client.payload()[0], 0, "it is let in");
        client
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.packets.begin();
        self.stream.write_all(bytes).unwrap();
    }

    fn send(&mut self) {
        self.stream.write_all(self.packets.output()).unwrap();
        self.packets.sent();
    }

    /// The next payload; empty at the end.
    pub fn payload(&mut self) -> Vec<u8> {
        loop {
            if let Some(payload) = self.packets.take().unwrap() {
                return payload;
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).unwrap();
            if count == 0 {
                return Vec::new();
            }
            self.packets.input().extend_from_slice(&buffer[..count]);
        }
    }

    /// Sends a command.
    pub fn command(&mut self, command: u8, rest: &[u8]) {
        self.packets.begin();
        self.packets.put(|out| {
            out.push(command);
            out.extend_from_slice(rest);
        });
        self.send();
    }

    /// Runs a statement.
    pub fn query(&mut self, text: &str) -> Heard {
        self.command(3, text.as_bytes());
        self.heard()
    }

    /// Runs a statement that must not fail.
    pub fn done(&mut self, text: &str) -> Heard {
        let heard = self.query(text);
        assert_eq!(heard.number(), 0, "{text}: {heard:?}");
        heard
    }

    /// The answer to a query.
    pub fn heard(&mut self) -> Heard {
        let first = self.payload();
        let mut payload = Payload(&first[1..]);
        match first[0] {
            0 => {
                let (affected, insert_id) = (payload.number().unwrap(), payload.number().unwrap());
                let _status = payload.u16().unwrap();
                Heard::Done { affected, insert_id, warnings: payload.u16().unwrap() }
            }
            0xff => failed(&first),
            count => self.rows(count.into()),
        }
    }

    fn rows(&mut self, count: usize) -> Heard {
        let mut names = Vec::new();
        for _ in 0..count {
            let definition = self.payload();
            let mut payload = Payload(&definition);
            let parts: Vec<&[u8]> = (0..5).map(|_| payload.string().unwrap()).collect();
            names.push(String::from_utf8_lossy(parts[4]).into_owned());
        }
        assert_eq!(self.payload()[0], 0xfe, "the end of the columns");
        let mut rows = Vec::new();
        loop {
            let bytes = self.payload();
            match bytes[0] {
                0xff => return failed(&bytes),
                0xfe if bytes.len() < 9 => {
                    let warnings = u16::from_le_bytes([bytes[1], bytes[2]]);
                    return Heard::Rows { names, rows, warnings };
                }
                _ => {}
            }
            let mut payload = Payload(&bytes);
            let mut row = Vec::new();
            while !payload.0.is_empty() {
                row.push(match payload.0[0] {
                    0xfb => {
                        payload.u8().unwrap();
                        None
                    }
                    _ => Some(payload.string().unwrap().to_vec()),
                });
            }
            rows.push(row);
        }
    }
}

fn failed(payload: &[u8]) -> Heard {
    let number = u16::from_le_bytes([payload[1], payload[2]]);
    Heard::Failed { number, text: String::from_utf8_lossy(&payload[9..]).into_owned() }
}
