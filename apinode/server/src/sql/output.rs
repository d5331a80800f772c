//! What a client is sent, no faster than it reads.

use std::io;

use tokio::net::TcpStream;
use twofold_apinode::sql::{
    value::Datum,
    wire::{
        packet::Packets,
        result::{Answers, ResultColumn, put_binary_row, put_text_row},
    },
};

use super::Stop;

/// Bytes that wait to be sent together.
const WRITE_BYTES: usize = 16 << 10;

/// Sends all that there is.
pub(super) async fn flush(stream: &TcpStream, packets: &mut Packets) -> io::Result<()> {
    let mut written = 0;
    while written < packets.output().len() {
        stream.writable().await?;
        match stream.try_write(&packets.output()[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    packets.sent();
    Ok(())
}

/// Where the rows of a result go.
pub(super) struct Output<'c> {
    pub stream: &'c TcpStream,
    pub packets: &'c mut Packets,
    pub answers: Answers,
    /// Values as prepared statements have them.
    pub binary: bool,
}

impl Output<'_> {
    /// Begins a result.
    pub fn begin(&mut self, columns: &[ResultColumn]) {
        self.answers.put_columns(self.packets, columns);
    }

    /// A row of it.
    pub async fn row(&mut self, columns: &[ResultColumn], row: &[Datum]) -> Result<(), Stop> {
        match self.binary {
            true => put_binary_row(self.packets, columns, row),
            false => put_text_row(self.packets, columns, row),
        }
        if self.packets.output().len() >= WRITE_BYTES {
            flush(self.stream, self.packets).await?;
        }
        Ok(())
    }

    /// A whole result; its end is the caller's.
    pub async fn rows(
        &mut self,
        columns: &[ResultColumn],
        rows: impl IntoIterator<Item = Vec<Datum>>,
    ) -> Result<(), Stop> {
        self.begin(columns);
        for row in rows {
            self.row(columns, &row).await?;
        }
        Ok(())
    }
}
