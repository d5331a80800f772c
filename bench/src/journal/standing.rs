//! What is known of a key, and the journal's lines, from which it can be known again.

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead, Write},
    str::FromStr,
};

/// What a key's row may hold.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Standing {
    /// The newest sequence that is known to be committed; 0: none.
    floor: u64,
    /// Newer ones that may be committed, or may become so: nobody could say in time.
    pending: Vec<u64>,
}

/// What a key's row must not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Violation {
    /// An acknowledged write, or one that was seen, is gone.
    Lost { known: u64, found: Option<u64> },
    /// A write that was called not applied, or was never sent, is there.
    NeverWritten { known: u64, found: u64 },
    /// The row is not as anybody wrote it.
    Mangled { found: u64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Lost { known, found: None } => {
                write!(f, "sequence {known} was committed, and there is no row")
            }
            Violation::Lost { known, found: Some(found) } => {
                write!(f, "sequence {known} was committed, and {found} is there")
            }
            Violation::NeverWritten { known, found } => {
                write!(
                    f,
                    "sequence {found} is there, which is not written; the newest that is committed is {known}"
                )
            }
            Violation::Mangled { found } => {
                write!(f, "sequence {found} is there with a value that nobody wrote for it")
            }
        }
    }
}

impl Standing {
    /// The newest sequence that is known to be committed; 0: none.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether a write may have been committed that is newer than what is known.
    pub fn is_uncertain(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The newest sequence of which anything is known.
    pub fn newest(&self) -> u64 {
        self.pending.iter().copied().fold(self.floor, u64::max)
    }

    /// This sequence is committed. Older ones cannot come after it: each write asks for an older one to be there.
    pub fn committed(&mut self, sequence: u64) {
        self.floor = self.floor.max(sequence);
        self.pending.retain(|&pending| pending > sequence);
    }

    /// Nobody could say in time whether this sequence is committed.
    pub fn pending(&mut self, sequence: u64) {
        self.pending.push(sequence);
    }

    /// A read found this sequence, or no row.
    ///
    /// # Errors
    /// If that cannot be.
    pub fn found(&mut self, found: Option<u64>) -> Result<(), Violation> {
        let known = self.floor;
        match found {
            None if known == 0 => Ok(()),
            Some(found) if found == known || self.pending.contains(&found) => {
                self.committed(found);
                Ok(())
            }
            Some(found) if found > known => Err(Violation::NeverWritten { known, found }),
            found => Err(Violation::Lost { known, found }),
        }
    }
}

/// What is noted of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A write was acknowledged.
    Acknowledged,
    /// A write's outcome could not be learned in time.
    Pending,
    /// A read found a pending write.
    Seen,
}

/// A line of the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// What happened.
    pub event: Event,
    /// The key.
    pub key: u64,
    /// The sequence.
    pub sequence: u64,
    /// Microseconds since 1970.
    pub micros: u64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = match self.event {
            Event::Acknowledged => "acknowledged",
            Event::Pending => "pending",
            Event::Seen => "seen",
        };
        write!(f, "{event} {} {} {}", self.key, self.sequence, self.micros)
    }
}

impl FromStr for Line {
    type Err = ();

    fn from_str(text: &str) -> Result<Line, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        let &[event, key, sequence, micros] = &words[..] else { return Err(()) };
        let event = match event {
            "acknowledged" => Event::Acknowledged,
            "pending" => Event::Pending,
            "seen" => Event::Seen,
            _ => return Err(()),
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| ());
        Ok(Line { event, key: number(key)?, sequence: number(sequence)?, micros: number(micros)? })
    }
}

/// What a journal begins with.
const TITLE: &str = "twofold-bench-journal-1";
/// The line that ends one that was not cut short.
const END: &str = "end";

/// A journal, read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Journal {
    /// The table.
    pub table: String,
    /// Names the run: rows of others are not its own.
    pub run: u64,
    /// Of each key that it tells of.
    pub keys: BTreeMap<u64, Standing>,
    /// Whether it was not cut short.
    pub complete: bool,
}

/// Writes the first line.
pub fn write_title(out: &mut impl Write, table: &str, run: u64) -> std::io::Result<()> {
    writeln!(out, "{TITLE} {run} {table}")
}

/// Writes the last line.
pub fn write_end(out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{END}")
}

impl Journal {
    /// Reads a journal. A last line that was cut short is passed over.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(file: impl BufRead) -> Result<Journal, String> {
        let mut lines = file.split(b'\n');
        let mut next = || {
            let line = lines.next()?.map_err(|error| error.to_string());
            Some(line.map(|line| String::from_utf8_lossy(&line).into_owned()))
        };
        let title = next().unwrap_or_else(|| Ok(String::new()))?;
        let rest = title.strip_prefix(TITLE).and_then(|rest| rest.strip_prefix(' '));
        let (run, table) = rest.and_then(|rest| rest.split_once(' ')).ok_or("line 1: this is no journal")?;
        let run = run.parse().map_err(|_| "line 1: this is no journal")?;
        let mut journal = Journal { table: table.into(), run, keys: BTreeMap::new(), complete: false };
        let mut cut: Option<usize> = None;
        for number in 2.. {
            let Some(line) = next() else { break };
            let line = line?;
            if let Some(cut) = cut {
                return Err(format!("line {cut}: not a line of a journal"));
            }
            match line.parse::<Line>() {
                Ok(line) => journal.take(line),
                Err(()) if line == END => journal.complete = true,
                Err(()) => cut = Some(number),
            }
        }
        Ok(journal)
    }

    fn take(&mut self, line: Line) {
        let standing = self.keys.entry(line.key).or_default();
        match line.event {
            Event::Acknowledged | Event::Seen => standing.committed(line.sequence),
            Event::Pending => standing.pending(line.sequence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_there_is_taken() {
        let mut standing = Standing::default();
        assert_eq!(standing.found(None), Ok(()));
        assert_eq!(standing.found(Some(1)), Err(Violation::NeverWritten { known: 0, found: 1 }));
        standing.committed(3);
        assert_eq!(standing.found(Some(3)), Ok(()));
        assert_eq!(standing.found(None), Err(Violation::Lost { known: 3, found: None }));
        assert_eq!(standing.found(Some(2)), Err(Violation::Lost { known: 3, found: Some(2) }));
        standing.pending(5);
        standing.pending(7);
        assert_eq!(standing.found(Some(3)), Ok(()), "it need not be there");
        assert_eq!(standing.found(Some(6)), Err(Violation::NeverWritten { known: 3, found: 6 }));
        assert_eq!(standing.found(Some(5)), Ok(()));
        assert_eq!(standing.found(Some(3)), Err(Violation::Lost { known: 5, found: Some(3) }), "5 was seen");
        assert_eq!((standing.floor(), standing.newest(), standing.is_uncertain()), (5, 7, true));
        standing.committed(8);
        assert!(!standing.is_uncertain(), "7 cannot come any more");
    }

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let mut text = Vec::new();
        write_title(&mut text, "a table", 77).unwrap();
        let line = |event, key, sequence| Line { event, key, sequence, micros: 5 };
        for line in [
            line(Event::Acknowledged, 1, 1),
            line(Event::Pending, 2, 1),
            line(Event::Seen, 2, 1),
            line(Event::Pending, 1, 2),
        ] {
            writeln!(text, "{line}").unwrap();
        }
        let cut = Journal::read(&text[..text.len() - 4]).unwrap();
        assert_eq!((cut.complete, cut.keys[&1].newest()), (false, 1), "its last line is cut short");
        write_end(&mut text).unwrap();
        let journal = Journal::read(&text[..]).unwrap();
        assert_eq!((journal.table.as_str(), journal.run, journal.complete), ("a table", 77, true));
        assert_eq!(journal.keys[&1], Standing { floor: 1, pending: vec![2] });
        assert_eq!(journal.keys[&2], Standing { floor: 1, pending: vec![] });
    }

    #[test]
    fn other_files_are_refused_by_line() {
        assert!(Journal::read(&b""[..]).is_err());
        assert!(Journal::read(&b"something else\n"[..]).unwrap_err().starts_with("line 1"));
        let text = format!("{TITLE} 1 t\nacknowledged 1 1 1\nrubbish\nend\n");
        assert!(Journal::read(text.as_bytes()).unwrap_err().starts_with("line 3"));
    }
}
