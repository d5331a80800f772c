//! The files of the node's directory: carries out what the disk's machine asks for.
//!
//! A thread steps the machine; one more for each lane does the IO, so that a slow request holds up those behind it in its
//! lane, and nothing else.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
};

use twofold_datanode::{
    disk::{Answer, Disk, Effect, Fault, Input, Lane, Request, ToDisk, Word},
    local::ToWorker,
};
use twofold_proto::{ids::WorkerId, machine::Machine};
use twofold_runtime::Clock;

use crate::writer::Writer;

/// Where to say something to the disk.
#[derive(Clone, Debug)]
pub struct DiskMailbox(Sender<Input>);

impl DiskMailbox {
    /// Says it.
    pub fn send(&self, message: ToDisk) {
        // Without its thread the process is about to end.
        let _ = self.0.send(Input::Local(message));
    }
}

/// A mailbox, and its other end.
pub fn mailbox() -> (DiskMailbox, Receiver<Input>) {
    let (sender, receiver) = channel();
    (DiskMailbox(sender), receiver)
}

/// Starts the threads of a disk.
///
/// # Errors
/// If the system gives no threads.
pub fn start(
    disk: Disk,
    directory: &Path,
    (mailbox, inputs): (DiskMailbox, Receiver<Input>),
    to_worker: impl Fn(WorkerId, ToWorker) + Send + 'static,
    to_node: impl Fn(Word) + Send + 'static,
) -> io::Result<()> {
    let lane = |lane: Lane, name: &'static str| -> io::Result<Sender<Request>> {
        let (sender, requests) = channel();
        let (answers, directory) = (mailbox.0.clone(), directory.to_path_buf());
        spawn(name, move || carry_out_all(lane, &directory, &requests, &answers))?;
        Ok(sender)
    };
    let (log, background) = (lane(Lane::Log, "redo")?, lane(Lane::Background, "checkpoints")?);
    spawn("disk", move || {
        run(disk, &inputs, |effect| match effect {
            // A lane ends with the process.
            Effect::Io(Lane::Log, request) => _ = log.send(request),
            Effect::Io(Lane::Background, request) => _ = background.send(request),
            Effect::Worker(worker, message) => to_worker(worker, ToWorker::Disk(message)),
            Effect::Node(word) => to_node(word),
        });
    })?;
    Ok(())
}

fn spawn(name: &str, main: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(main).map(drop)
}

/// Steps the machine until nobody can say anything to it.
fn run(mut disk: Disk, inputs: &Receiver<Input>, mut carry_out: impl FnMut(Effect)) {
    let mut effects = Vec::new();
    loop {
        let now = Clock.now();
        let input = match disk.next_timeout() {
            Some(due) if due <= now => Ok(Input::Timer),
            Some(due) => inputs.recv_timeout(due.since(now)),
            None => inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match input {
            Ok(input) => disk.step(Clock.now(), input, &mut effects),
            Err(RecvTimeoutError::Timeout) => disk.step(Clock.now(), Input::Timer, &mut effects),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        effects.drain(..).for_each(&mut carry_out);
    }
}

fn carry_out_all(lane: Lane, directory: &Path, requests: &Receiver<Request>, answers: &Sender<Input>) {
    let mut writer = Writer::new();
    for request in requests {
        let answer = carry_out(directory, &mut writer, &request).map_err(|(path, error)| Fault {
            full: matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
            text: format!("{}: {error}", path.display()),
        });
        if answers.send(Input::Io(lane, answer)).is_err() {
            return;
        }
    }
}

/// Carries out a request, in this directory.
fn carry_out(
    directory: &Path,
    writer: &mut Writer,
    request: &Request,
) -> Result<Answer, (PathBuf, io::Error)> {
    let at = |name: &str| directory.join(name);
    let done = |path: PathBuf, result: io::Result<()>| match result {
        Ok(()) => Ok(Answer::Done),
        Err(error) => Err((path, error)),
    };
    match request {
        Request::List => list(directory).map(Answer::Files).map_err(|error| (directory.to_path_buf(), error)),
        Request::Read(name) => fs::read(at(name)).map(Answer::Bytes).map_err(|error| (at(name), error)),
        Request::Create(name, bytes) => done(at(name), create(directory, writer, name, *bytes)),
        Request::Write(name, offset, bytes) => done(at(name), writer.write_at(&at(name), *offset, bytes)),
        Request::Sync(name) => {
            done(at(name), File::options().write(true).open(at(name)).and_then(|file| file.sync_data()))
        }
        Request::Replace(name, bytes) => done(at(name), replace(directory, writer, name, bytes)),
        Request::Remove(name) => match fs::remove_file(at(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err((at(name), error)),
            _ => done(directory.to_path_buf(), sync_directory(directory)),
        },
    }
}

fn list(directory: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // What is not ours may have any name.
        if let Ok(name) = entry.file_name().into_string() {
            files.push((name, entry.metadata()?.len()));
        }
    }
    Ok(files)
}

fn create(directory: &Path, writer: &mut Writer, name: &str, bytes: usize) -> io::Result<()> {
    writer.create_zeros(&directory.join(name), bytes)?;
    sync_directory(directory)
}

/// A new file is written and flushed, then it takes the old one's name.
fn replace(directory: &Path, writer: &mut Writer, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    writer.create(&new, bytes)?;
    fs::rename(&new, directory.join(name))?;
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(directory: &Path, request: Request) {
        assert_eq!(carry_out(directory, &mut Writer::new(), &request).unwrap(), Answer::Done, "{request:?}");
    }

    #[test]
    fn requests_are_carried_out() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, writer) = (folder.path(), &mut Writer::new());
        let (a, b) = ("a".to_string(), "b".to_string());
        done(directory, Request::Create(a.clone(), 3000));
        done(directory, Request::Write(a.clone(), 1024, b"bytes".to_vec()));
        done(directory, Request::Sync(a.clone()));
        done(directory, Request::Replace(b.clone(), b"first".to_vec()));
        done(directory, Request::Replace(b.clone(), b"second".to_vec()));
        let Ok(Answer::Bytes(bytes)) = carry_out(directory, writer, &Request::Read(a.clone())) else {
            panic!("it is there")
        };
        assert_eq!((bytes.len(), &bytes[1024..1029]), (3000, &b"bytes"[..]));
        assert_eq!(
            carry_out(directory, writer, &Request::Read(b.clone())).unwrap(),
            Answer::Bytes(b"second".to_vec())
        );
        let Ok(Answer::Files(mut files)) = carry_out(directory, writer, &Request::List) else {
            panic!("it is there")
        };
        files.sort();
        assert_eq!(files, [(a.clone(), 3000), (b.clone(), 6)]);
        done(directory, Request::Remove(a.clone()));
        done(directory, Request::Remove(a.clone()));
        let (path, error) = carry_out(directory, writer, &Request::Sync(a)).unwrap_err();
        assert_eq!((path, error.kind()), (directory.join("a"), ErrorKind::NotFound));
    }
}
