//! Drives one machine, turn by turn.

use std::{
    cell::{Ref, RefCell},
    fmt,
    future::poll_fn,
    io, mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::{coop::unconstrained, spawn_local},
    time::{Instant, Sleep, sleep},
};
use twofold_proto::{
    ids::Endpoint,
    link::FrameHeader,
    links::{LinkId, LinkInput, Linked},
    time::Time,
};

use crate::{
    clock::Clock,
    connection::{READ_BYTES, Received, Token, first_frame},
    dial::{Attempted, Directory},
    handshake::Failure,
    mailbox::{Delivery, Mailbox},
    metrics::DriverMetrics,
    network::{Connected, Network, welcome},
    recorder::{self, Input},
};

/// Bytes read in a turn at most; what else is there waits for the next, so that answers leave meanwhile.
const TURN_BYTES: usize = 1 << 20;
/// How long a driver that was asked to stop tries to write what its links hold.
const STOP_TIME: Duration = Duration::from_secs(1);
/// How often sizes are looked at for the metrics.
const SIZES_EVERY: Duration = Duration::from_secs(1);

/// What a process adds to a machine: where its other inputs come from, and where its other effects go.
pub trait Owner<M: Linked> {
    /// What other threads send to the machine; see [`Mailbox`].
    type Message;

    /// The input that a message is for the machine.
    fn input(message: Self::Message) -> M::Input<'static>;

    /// The machine's timer input.
    fn timer() -> M::Input<'static>;

    /// Carries out an effect that is not about links. It must not block, nor step the machine: an answer comes by
    /// mailbox, or from a task that this wakes.
    fn effect(&mut self, effect: M::Effect);

    /// The turn is over: its effects have all been handed over, its frames are about to be written.
    fn end_turn(&mut self) {}
}

/// Drives a machine in the thread that runs it.
pub struct Driver<M: Linked, O: Owner<M>>(Rc<RefCell<Core<M, O>>>);

/// A hand on a machine for the tasks of its driver's thread.
///
/// The steps of all tasks that run before the driver's next turn are one turn: what they send leaves in one frame
/// and one write per link. Tasks that an answer wakes run before the turn that brought the answer ends, so what they
/// ask next leaves with it.
pub struct Local<M: Linked, O: Owner<M>>(Rc<RefCell<Core<M, O>>>);

impl<M: Linked, O: Owner<M>> Clone for Local<M, O> {
    fn clone(&self) -> Local<M, O> {
        Local(self.0.clone())
    }
}

impl<M: Linked, O: Owner<M>> fmt::Debug for Driver<M, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

impl<M: Linked, O: Owner<M>> fmt::Debug for Local<M, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local")
    }
}

impl<M: Linked, O: Owner<M>> Local<M, O> {
    /// Steps the machine. Its effects are carried out before this returns; its frames leave when the turn ends.
    ///
    /// # Panics
    /// Panics if called from [`Owner::effect`].
    pub fn step(&self, input: M::Input<'_>) {
        let mut core = self.0.borrow_mut();
        let (was_open, now) = (core.open, core.clock.now());
        core.step(now, Input::Local, input);
        if !was_open && let Some(waker) = &core.waker {
            waker.wake_by_ref();
        }
    }

    /// Looks at the machine.
    pub fn machine(&self) -> Ref<'_, M> {
        Ref::map(self.0.borrow(), |core| &core.machine)
    }

    /// Looks at the owner.
    pub fn owner(&self) -> Ref<'_, O> {
        Ref::map(self.0.borrow(), |core| &core.owner)
    }
}

impl<M: Linked + 'static, O: Owner<M> + 'static> Driver<M, O> {
    /// Drives `machine`, whose mailbox this is, and whose nodes listen where the directory says.
    pub fn new(
        machine: M,
        owner: O,
        mailbox: Mailbox<O::Message>,
        directory: Directory,
        metrics: DriverMetrics,
    ) -> Driver<M, O> {
        Driver(Rc::new(RefCell::new(Core {
            machine,
            owner,
            mailbox,
            network: Network::new(directory, metrics),
            clock: Clock,
            effects: Vec::new(),
            open: false,
            has_locals: false,
            waker: None,
            timer: Timer::default(),
            stopping: None,
            sizes_told: Time(0),
            sizes_due: None,
            buffer: vec![0; READ_BYTES],
            dirty: Vec::new(),
            deliveries: Vec::new(),
            attempts: Vec::new(),
            ready: Vec::new(),
        })))
    }

    /// A hand on the machine for the thread's own tasks.
    pub fn local(&self) -> Local<M, O> {
        self.0.borrow_mut().has_locals = true;
        Local(self.0.clone())
    }

    /// Runs until [`Mailbox::stop`]. To be called in a runtime of [`crate::thread`]; the machine is then one
    /// task among the thread's others.
    ///
    /// # Panics
    /// Panics if the machine does.
    pub async fn run(self) {
        let core = self.0;
        let turns = spawn_local(unconstrained(poll_fn(move |context| core.borrow_mut().poll(context))));
        if let Err(error) = turns.await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

struct Core<M: Linked, O: Owner<M>> {
    machine: M,
    owner: O,
    mailbox: Mailbox<O::Message>,
    network: Network,
    clock: Clock,
    /// Reused; empty between steps.
    effects: Vec<M::Effect>,
    /// The machine was stepped since the last end of turn.
    open: bool,
    /// Other tasks step the machine, too.
    has_locals: bool,
    /// Of the driver's task.
    waker: Option<Waker>,
    timer: Timer,
    /// Until when to try to write, once asked to stop.
    stopping: Option<Time>,
    /// When sizes were looked at for the metrics, and when they are to be again, if there was a turn since.
    sizes_told: Time,
    sizes_due: Option<Time>,
    /// What is read from all connections, one after the other.
    buffer: Vec<u8>,
    // Reused, empty between turns.
    dirty: Vec<LinkId>,
    deliveries: Vec<Delivery<O::Message>>,
    attempts: Vec<Attempted>,
    ready: Vec<Token>,
}

impl<M: Linked, O: Owner<M>> Core<M, O> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker();
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
        if self.open {
            self.end_turn();
        }
        self.take_broken();
        self.take_deliveries(waker);
        self.take_attempts(waker);
        self.take_frames(waker);
        self.take_broken();
        self.take_timer();
        self.open |= self.network.has_to_write();
        if self.open && !self.has_locals {
            self.end_turn();
        }
        if self.open || self.network.has_broken() || self.network.has_to_write() {
            // The tasks that were woken meanwhile run first.
            waker.wake_by_ref();
        } else if let Some(deadline) = self.stopping
            && (self.clock.now() >= deadline || !self.network.has_unwritten(self.machine.links()))
        {
            self.mailbox.queue().close();
            return Poll::Ready(());
        }
        if !self.open && self.sizes_due.is_some() {
            self.tell_sizes(self.clock.now());
        }
        let due = [self.machine.next_timeout(), self.stopping, self.sizes_due].into_iter().flatten().min();
        self.timer.arm(due, self.clock, context);
        Poll::Pending
    }

    fn step(&mut self, now: Time, record: Input, input: M::Input<'_>) {
        recorder::record(now, record);
        self.open = true;
        self.machine.step(now, input, &mut self.effects);
        if !self.effects.is_empty() {
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        let mut effects = mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match M::link_effect(effect) {
                Ok(effect) => self.network.carry_out(self.machine.links(), effect),
                Err(effect) => self.owner.effect(effect),
            }
        }
        self.effects = effects;
    }

    fn end_turn(&mut self) {
        let now = self.clock.now();
        recorder::record(now, Input::EndTurn);
        self.open = false;
        self.machine.end_turn(now, &mut self.effects);
        self.carry_out();
        self.owner.end_turn();
        let mut dirty = mem::take(&mut self.dirty);
        self.machine.links().take_dirty(&mut dirty);
        self.network.write(self.machine.links(), &mut dirty);
        dirty.clear();
        self.dirty = dirty;
        self.network.tally.turns += 1;
        self.network.publish();
        self.sizes_due.get_or_insert(self.sizes_told + SIZES_EVERY);
        self.tell_sizes(now);
    }

    /// Once a second where there are turns; and once more after the last one.
    fn tell_sizes(&mut self, now: Time) {
        if self.sizes_due.is_some_and(|due| due <= now) {
            (self.sizes_due, self.sizes_told) = (None, now);
            self.network.publish_sizes(&mut self.machine, self.mailbox.queue().len());
        }
    }

    fn peer(&mut self, link: LinkId) -> Endpoint {
        self.machine.links().get(link).map(|link| link.peer()).unwrap_or_default()
    }

    fn take_broken(&mut self) {
        while let Some(link) = self.network.next_broken() {
            let record = Input::Disconnected { peer: self.peer(link) };
            self.step(self.clock.now(), record, M::link_input(LinkInput::Disconnected { link }));
            self.network.redial(self.machine.links(), link);
        }
    }

    fn take_deliveries(&mut self, waker: &Waker) {
        let mut deliveries = mem::take(&mut self.deliveries);
        self.mailbox.queue().take(&mut deliveries, waker);
        if !deliveries.is_empty() {
            let now = self.clock.now();
            for delivery in deliveries.drain(..) {
                self.deliver(now, delivery);
            }
        }
        self.deliveries = deliveries;
    }

    fn deliver(&mut self, now: Time, delivery: Delivery<O::Message>) {
        match delivery {
            Delivery::Message(message) => {
                self.network.tally.messages += 1;
                self.step(now, Input::Message, O::input(message));
            }
            Delivery::Connection(socket, hello) => {
                if welcome(&socket, &hello) {
                    let connection = self.network.greeted(socket);
                    let record = Input::Hello { peer: hello.from };
                    self.step(now, record, M::link_input(LinkInput::Hello { connection, hello }));
                }
            }
            Delivery::Stop => {
                self.stopping.get_or_insert(now + STOP_TIME);
                self.open = true;
            }
        }
    }

    fn take_attempts(&mut self, waker: &Waker) {
        let mut attempts = mem::take(&mut self.attempts);
        self.network.take_attempts(&mut attempts, waker);
        for attempted in attempts.drain(..) {
            let Some((link, result)) = self.network.attempted(attempted) else { continue };
            let (now, peer) = (self.clock.now(), self.peer(link));
            match result {
                Ok(Connected { incarnation, received }) => {
                    let input = LinkInput::Connected { link, incarnation, received };
                    self.step(now, Input::Connected { peer }, M::link_input(input));
                }
                Err(failure) => {
                    if let Failure::Refused { temporary, reason } = failure {
                        let input = LinkInput::Refused { link, temporary, reason };
                        self.step(now, Input::Refused { peer }, M::link_input(input));
                    }
                    self.network.redial(self.machine.links(), link);
                }
            }
        }
        self.attempts = attempts;
    }

    fn take_frames(&mut self, waker: &Waker) {
        let mut ready = mem::take(&mut self.ready);
        let mut buffer = mem::take(&mut self.buffer);
        self.network.take_ready(&mut ready, waker);
        let mut bytes = 0;
        for token in ready.drain(..) {
            if bytes >= TURN_BYTES {
                self.network.put_off(token);
            } else {
                bytes += self.serve(token, &mut buffer);
            }
        }
        self.buffer = buffer;
        self.ready = ready;
    }

    /// Looks at a connection whose socket is ready; returns how many bytes it had.
    fn serve(&mut self, token: Token, buffer: &mut [u8]) -> usize {
        let Some(connection) = self.network.connection(token) else { return 0 };
        connection.unlist();
        let (link, unblocked) = (connection.link, connection.unblock());
        let received = connection.receive(buffer);
        if let Ok(Received::Nothing) = received {
            connection.await_bytes();
        }
        if unblocked {
            self.network.unblocked(link);
        }
        match received {
            Ok(Received::Bytes { bytes, frame, total }) => {
                self.network.tally.reads += 1;
                self.network.tally.bytes_in += total as u64;
                if let Err(error) = self.take_in(token, frame, &buffer[..bytes]) {
                    self.network.tally.malformed += 1;
                    self.network.lose(token, &error);
                }
                total
            }
            Ok(Received::Nothing) => 0,
            Ok(Received::End) => {
                self.network.lose(token, &"closed by the peer");
                0
            }
            Err(error) => {
                self.network.lose(token, &error);
                0
            }
        }
    }

    /// Steps the machine with the frames of a read; the beginning of another is kept.
    fn take_in(&mut self, token: Token, frame: bool, bytes: &[u8]) -> io::Result<()> {
        let now = self.clock.now();
        let Some(connection) = self.network.connection(token) else { return Ok(()) };
        let (link, peer) = (connection.link, connection.peer);
        if frame {
            connection.proven = true;
            let buffer = connection.take_frame();
            if let Some((header, payload)) = first_frame(&buffer)? {
                self.step_frame(now, link, peer, header, payload);
            }
            let Some(connection) = self.network.connection(token) else { return Ok(()) };
            connection.return_buffer(buffer);
        }
        let mut rest = bytes;
        while let Some((header, payload)) = first_frame(rest)? {
            rest = &rest[header.length..];
            self.step_frame(now, link, peer, header, payload);
            // The machine may have closed it.
            let Some(connection) = self.network.connection(token) else { return Ok(()) };
            connection.proven = true;
        }
        if let Some(connection) = self.network.connection(token) {
            connection.keep(rest);
            connection.await_bytes();
        }
        Ok(())
    }

    #[inline]
    fn step_frame(&mut self, now: Time, link: LinkId, peer: Endpoint, header: FrameHeader, payload: &[u8]) {
        self.network.tally.frames_in += 1;
        let record = Input::frame(peer, &header, payload);
        self.step(now, record, M::link_input(LinkInput::Frame { link, header, payload }));
    }

    fn take_timer(&mut self) {
        if let Some(due) = self.machine.next_timeout() {
            let now = self.clock.now();
            if due <= now {
                self.step(now, Input::Timer, O::timer());
            }
        }
    }
}

/// One sleep that is moved only to an earlier time: most deadlines move away before they are reached.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Time>,
}

impl Timer {
    /// Wakes the task at `due`, or earlier.
    fn arm(&mut self, due: Option<Time>, clock: Clock, context: &mut Context<'_>) {
        let Some(due) = due else { return };
        loop {
            let now = clock.now();
            if due <= now {
                context.waker().wake_by_ref();
                return;
            }
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(Duration::MAX)));
            if self.armed.is_none_or(|armed| due < armed) {
                sleep.as_mut().reset(Instant::now() + due.since(now));
                self.armed = Some(due);
            }
            if sleep.as_mut().poll(context).is_pending() {
                return;
            }
            self.armed = None;
        }
    }
}
