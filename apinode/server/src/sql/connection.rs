//! A connection: who it is, and one command after the other.

use std::{io, net::IpAddr, rc::Rc, sync::atomic::Ordering};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{self, Duration},
};
use twofold_apinode::sql::{
    bind::Statement,
    error::{SqlError, codes},
    parse::{parse, text},
    session::{PACKET_MAX, VERSION},
    wire::{
        capability,
        command::Command,
        handshake::{self, Greeting, Login},
        packet::{Mark, Packets, malformed},
        password::{self, Method, NONCE},
        result::{self, Answers, Done},
        status,
    },
};

use super::{
    Stop, Thread,
    output::{Output, flush},
    prepared::PreparedStatements,
    run::{Outcome, Runner, error_warnings},
};

/// How long a client may take to say who it is.
const LOGIN_TIME: Duration = Duration::from_secs(10);
/// Bytes read at once, at most.
const READ_BYTES: usize = 16 << 10;
/// How long, and how much, is read of a client that was told that it cannot go on.
const DRAIN_TIME: Duration = Duration::from_secs(2);
const DRAIN_BYTES: usize = 64 << 20;

/// How often a statement is bound, while tables change under it.
const BIND_ATTEMPTS: u32 = 4;
/// How long a catalog may take to come here that data nodes know already.
const CATALOG_TIME: Duration = Duration::from_secs(1);

/// A statement that may have to be bound anew.
struct Attempt {
    /// How many there may be, this one included.
    left: u32,
    /// The catalog's version.
    version: u64,
    mark: Mark,
    in_transaction: bool,
}

/// A client that is known.
struct Connection {
    stream: TcpStream,
    packets: Packets,
    runner: Runner,
    prepared: PreparedStatements,
    capabilities: u32,
    multi_statements: bool,
    nonce: [u8; NONCE],
    /// Of what was sent ahead and answered nothing.
    late_error: Option<(u32, SqlError)>,
}

/// Serves a connection until it ends.
pub(super) async fn converse(thread: Rc<Thread>, stream: TcpStream) -> io::Result<()> {
    // Answers are whole when they are written.
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?.ip();
    let number = thread.server.next_connection.fetch_add(1, Ordering::Relaxed);
    let mut connection = Connection {
        stream,
        packets: Packets::new(handshake::PAYLOAD_MAX),
        runner: Runner::new(thread, number),
        prepared: PreparedStatements::default(),
        capabilities: 0,
        multi_statements: false,
        nonce: random_nonce(),
        late_error: None,
    };
    match time::timeout(LOGIN_TIME, connection.greet(number, peer)).await {
        Ok(true) => connection.serve(peer).await,
        Ok(false) => Ok(()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Nobody must be able to foretell it.
fn random_nonce() -> [u8; NONCE] {
    use std::hash::{BuildHasher, RandomState};
    // Keyed anew by the system's randomness in each thread, and stepped for each use.
    let mut bytes = [0; NONCE];
    for (index, chunk) in bytes.chunks_mut(8).enumerate() {
        let word = RandomState::new().hash_one(index).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    password::nonce(bytes)
}

impl Connection {
    fn answers(&self) -> Answers {
        Answers { capabilities: self.capabilities, status: self.runner.status(), warnings: 0 }
    }

    async fn flush(&mut self) -> io::Result<()> {
        flush(&self.stream, &mut self.packets).await
    }

    /// The next payload; `None` where the client has gone, in order or not.
    async fn payload(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        loop {
            if let Some(payload) = self.packets.take()? {
                return Ok(Some(payload));
            }
            self.stream.readable().await?;
            let input = self.packets.input();
            let before = input.len();
            input.resize(before + READ_BYTES, 0);
            let read = self.stream.try_read(&mut input[before..]);
            input.truncate(before + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says who is here, and hears who is there. Whether that is somebody who may come in.
    async fn greet(&mut self, number: u32, peer: IpAddr) -> bool {
        let greeting =
            Greeting { version: VERSION, connection: number, nonce: &self.nonce, status: status::AUTOCOMMIT };
        greeting.put(&mut self.packets);
        match self.log_in(peer).await {
            Ok(()) => {
                self.packets.limit(PACKET_MAX);
                true
            }
            Err(Stop::Failed(error)) => {
                tracing::debug!("SQL: {peer} is turned away: {error}");
                // That it may not arrive does no harm.
                let _ = self.give_up(Stop::Failed(error)).await;
                false
            }
            Err(Stop::Gone(_)) => false,
        }
    }

    async fn log_in(&mut self, peer: IpAddr) -> Result<(), Stop> {
        self.flush().await?;
        let Some(payload) = self.payload().await? else {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        };
        let login = Login::parse(&payload)?;
        self.capabilities = login.capabilities;
        self.admit(login, peer).await
    }

    /// Lets a user in: OK is said at the end.
    async fn admit(&mut self, mut login: Login, peer: IpAddr) -> Result<(), Stop> {
        if login.method.is_none() {
            login.method = Some(Method::Native);
            if self.runner.thread.server.password.is_some() {
                handshake::put_switch(&mut self.packets, Method::Native, &self.nonce);
                self.flush().await?;
                login.answer = self.payload().await?.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
            }
        }
        let method = login.method.unwrap_or(Method::Native);
        if !self.is_allowed(&login, method, peer) {
            let using = if login.is_without_password() { "NO" } else { "YES" };
            let text = format!("Access denied for user '{}'@'{peer}' (using password: {using})", login.user);
            return Err(SqlError::new(codes::ACCESS_DENIED, text).into());
        }
        if method == Method::CachingSha2 && !login.is_without_password() {
            handshake::put_fast_success(&mut self.packets);
        }
        self.multi_statements = login.capabilities & capability::MULTI_STATEMENTS != 0;
        self.runner.found_rows = login.capabilities & capability::FOUND_ROWS != 0;
        if !login.database.is_empty() {
            self.runner.use_database(&login.database).await?;
        }
        self.answers().put_ok(&mut self.packets, &Done::default());
        Ok(self.flush().await?)
    }

    /// There is one user. Without a password it may come from this machine alone.
    fn is_allowed(&self, login: &Login, method: Method, peer: IpAddr) -> bool {
        login.user == "root"
            && match &self.runner.thread.server.password {
                Some(password) => password.accepts(method, &self.nonce, &login.answer),
                None => peer.to_canonical().is_loopback() && login.is_without_password(),
            }
    }

    async fn serve(&mut self, peer: IpAddr) -> io::Result<()> {
        loop {
            self.packets.begin();
            let payload = match self.payload().await {
                Ok(Some(payload)) => payload,
                Ok(None) => return Ok(()),
                Err(stop) => return self.give_up(stop).await,
            };
            // One that sends ahead takes turns with the others.
            tokio::task::consume_budget().await;
            match self.command(&payload, peer).await {
                Ok(true) => self.flush().await?,
                Ok(false) => return Ok(()),
                Err(Stop::Failed(error)) => {
                    result::put_error(&mut self.packets, &error);
                    self.flush().await?;
                }
                Err(stop) => return self.give_up(stop).await,
            }
        }
    }

    /// The connection cannot go on.
    async fn give_up(&mut self, stop: Stop) -> io::Result<()> {
        match stop {
            Stop::Gone(error) => Err(error),
            Stop::Failed(error) => {
                result::put_error(&mut self.packets, &error);
                self.flush().await?;
                // With something unread a connection ends with a reset, which the error might not outlive.
                self.stream.shutdown().await?;
                // Who does not end it is not waited for.
                let _ = time::timeout(DRAIN_TIME, drain(&self.stream)).await;
                Ok(())
            }
        }
    }

    /// Carries a command out. `false`: that was the last one.
    async fn command(&mut self, payload: &[u8], peer: IpAddr) -> Result<bool, Stop> {
        match Command::parse(payload)? {
            Command::Quit => return Ok(false),
            Command::Query(query) => self.query(query).await?,
            Command::Prepare(query) => self.prepare(query)?,
            Command::Execute { cursor: 1.., .. } => return Err(SqlError::not_supported("cursors").into()),
            Command::Execute { statement, values, .. } => self.execute(statement, values).await?,
            Command::SendLongData { statement, parameter, data } => {
                // Nobody waits for an answer: what is wrong is told when the statement runs.
                if let Err(error) = self.prepared.append(statement, parameter, data) {
                    self.late_error = Some((statement, error));
                }
            }
            Command::CloseStatement(statement) => self.prepared.close(statement),
            Command::ResetStatement(statement) => {
                self.late_error = None;
                self.prepared.get(statement, "mysqld_stmt_reset")?.parameters.reset();
                self.put_ok();
            }
            Command::Ping => self.put_ok(),
            Command::InitDb(name) => {
                let name = str::from_utf8(name).map_err(|_| malformed())?;
                self.runner.use_database(name).await?;
                self.put_ok();
            }
            Command::Statistics => {
                let text = format!("Connections: {}", self.runner.thread.server.seats.taken());
                self.packets.put(|out| out.extend_from_slice(text.as_bytes()));
            }
            Command::SetOption(option) => {
                self.multi_statements = option == 0;
                self.answers().put_end(&mut self.packets);
            }
            Command::ResetConnection => {
                self.begin_anew().await;
                self.put_ok();
            }
            Command::ChangeUser(rest) => {
                let login = Login::parse_change(self.capabilities, rest)?;
                self.begin_anew().await;
                return match self.admit(login, peer).await {
                    Ok(()) => Ok(true),
                    Err(stop) => {
                        // Who is not let in is not who was let in before.
                        self.give_up(stop).await?;
                        Ok(false)
                    }
                };
            }
        }
        Ok(true)
    }

    async fn begin_anew(&mut self) {
        self.prepared.clear();
        self.late_error = None;
        self.runner.reset().await;
    }

    fn put_ok(&mut self) {
        self.answers().put_ok(&mut self.packets, &Done::default());
    }

    async fn query(&mut self, query: &[u8]) -> Result<(), Stop> {
        let statements = text::split(query)?;
        if statements.is_empty() {
            return Err(SqlError::new(codes::EMPTY_QUERY, "Query was empty").into());
        }
        if statements.len() > 1 && !self.multi_statements {
            let text = "You have an error in your SQL syntax: several statements, which the client has not asked for";
            return Err(SqlError::new(codes::SYNTAX, text).into());
        }
        for (index, text) in statements.iter().enumerate() {
            let more = index + 1 < statements.len();
            self.statement(text, more).await?;
        }
        Ok(())
    }

    async fn statement(&mut self, text: &str, more: bool) -> Result<(), Stop> {
        let mut attempt = self.attempt();
        loop {
            let statement = self.planned(text, attempt.version)?;
            let result = self.run(&statement, &[], false, more).await;
            if !self.again(&mut attempt, &statement, &result).await {
                return result;
            }
        }
    }

    /// The statement of this text under this version of the catalog.
    fn planned(&mut self, text: &str, version: u64) -> Result<Rc<Statement>, SqlError> {
        let database = self.runner.session.database.clone();
        let known = self.runner.thread.plan(&database, text, version);
        match known {
            Some(statement) => Ok(statement),
            None => {
                let bound = parse(text).and_then(|parsed| {
                    if parsed.placeholders() > 0 {
                        let text = "You have an error in your SQL syntax: a placeholder in a statement that is not prepared";
                        return Err(SqlError::new(codes::SYNTAX, text));
                    }
                    self.runner.bind(&parsed)
                });
                let (statement, keep) = bound.inspect_err(|error| {
                    self.runner.session.warnings = error_warnings(error);
                    self.runner.session.row_count = -1;
                })?;
                if keep {
                    self.runner.thread.keep_plan(database, text, version, &statement);
                }
                Ok(statement)
            }
        }
    }

    fn attempt(&self) -> Attempt {
        Attempt {
            left: BIND_ATTEMPTS,
            version: self.runner.version(),
            mark: self.packets.mark(),
            in_transaction: self.runner.open.is_some(),
        }
    }

    /// Whether a statement has failed because tables have changed since it was bound, and has left and sent nothing: then it is
    /// to be bound anew.
    async fn again(
        &mut self,
        attempt: &mut Attempt,
        statement: &Statement,
        result: &Result<(), Stop>,
    ) -> bool {
        let Err(Stop::Failed(error)) = result else { return false };
        let is_of_rows = matches!(
            statement,
            Statement::Select(_) | Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_)
        );
        let has_changed = [codes::TABLE_CHANGED, codes::NO_SUCH_TABLE].contains(&error.code);
        let is_over = attempt.in_transaction && self.runner.open.is_none();
        attempt.left -= 1;
        if attempt.left == 0 || !is_of_rows || !has_changed || is_over {
            return false;
        }
        if error.code == codes::TABLE_CHANGED {
            // Data nodes know a newer catalog, so it is on its way.
            let tables = self.runner.handle().tables();
            _ = time::timeout(CATALOG_TIME, tables.wait_for(attempt.version + 1)).await;
        }
        let version = std::mem::replace(&mut attempt.version, self.runner.version());
        attempt.version > version && self.packets.rewind(&attempt.mark)
    }

    fn prepare(&mut self, query: &[u8]) -> Result<(), SqlError> {
        let number = self.prepared.add(query)?;
        let prepared = self.prepared.get(number, "prepare")?;
        let parsed = prepared.parsed.clone();
        let bound = self.runner.bind(&parsed);
        let (statement, keep) = match bound {
            Ok(bound) => bound,
            Err(error) => {
                self.prepared.close(number);
                return Err(error);
            }
        };
        let columns = match &*statement {
            Statement::Select(select) => select.columns(&[]),
            _ => Vec::new(),
        };
        if keep {
            let (database, version) = (self.runner.session.database.clone(), self.runner.version());
            self.prepared.get(number, "prepare")?.bound = Some((database, version, statement));
        }
        let answers = self.answers();
        answers.put_prepared(&mut self.packets, number, parsed.placeholders() as u16, &columns);
        Ok(())
    }

    async fn execute(&mut self, number: u32, values: &[u8]) -> Result<(), Stop> {
        let prepared = self.prepared.get(number, "mysqld_stmt_execute")?;
        if let Some((_, error)) = self.late_error.take_if(|(statement, _)| *statement == number) {
            prepared.parameters.reset();
            return Err(error.into());
        }
        let parameters = prepared.parameters.read(values)?;
        let mut attempt = self.attempt();
        loop {
            let statement = self.planned_prepared(number, attempt.version)?;
            let result = self.run(&statement, &parameters, true, false).await;
            if !self.again(&mut attempt, &statement, &result).await {
                return result;
            }
        }
    }

    /// The prepared statement under this version of the catalog.
    fn planned_prepared(&mut self, number: u32, version: u64) -> Result<Rc<Statement>, SqlError> {
        let database = self.runner.session.database.clone();
        let prepared = self.prepared.get(number, "mysqld_stmt_execute")?;
        let known = prepared.bound.as_ref().filter(|(of, at, _)| *of == database && *at == version);
        match known {
            Some((.., statement)) => Ok(statement.clone()),
            None => {
                let parsed = prepared.parsed.clone();
                let (statement, keep) = self.runner.bind(&parsed)?;
                if keep {
                    let bound = Some((database, version, statement.clone()));
                    self.prepared.get(number, "mysqld_stmt_execute")?.bound = bound;
                }
                Ok(statement)
            }
        }
    }

    /// Runs a statement and answers. Where the client goes away meanwhile, what the statement has begun is given up at once.
    async fn run(
        &mut self,
        statement: &Statement,
        parameters: &[twofold_apinode::sql::value::Datum],
        binary: bool,
        more: bool,
    ) -> Result<(), Stop> {
        let answers = self.answers();
        let mut output = Output { stream: &self.stream, packets: &mut self.packets, answers, binary };
        let outcome = {
            let run = self.runner.run(statement, parameters, &mut output);
            tokio::select! {
                biased;
                outcome = run => outcome?,
                error = gone(&self.stream) => return Err(error.into()),
            }
        };
        let answers = output.answers.with_more(more);
        match outcome {
            Outcome::Rows => answers.put_end(&mut self.packets),
            Outcome::Done(done) => answers.put_ok(&mut self.packets, &done),
        }
        Ok(())
    }
}

/// Reads what nobody wants, so much at most.
async fn drain(stream: &TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut left = DRAIN_BYTES;
    while left > 0 {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => left = left.saturating_sub(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        tokio::task::consume_budget().await;
    }
    Ok(())
}

/// Waits until the client is gone. While there is something from it to be read, it is taken to be there.
async fn gone(stream: &TcpStream) -> io::Error {
    /// How often it is looked at, then.
    const LOOK: Duration = Duration::from_millis(500);
    loop {
        match stream.peek(&mut [0]).await {
            Ok(0) => return io::ErrorKind::ConnectionAborted.into(),
            Ok(_) => time::sleep(LOOK).await,
            Err(error) => return error,
        }
    }
}
