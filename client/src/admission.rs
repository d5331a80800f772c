//! How much a thread takes on. Past what the cluster can do, more under way brings no more done, only longer waits; so
//! what is beyond a bound waits for its turn, first come first served, and is refused if that does not come soon.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use twofold_apinode::request::{End, Request, Statement};
use twofold_proto::{
    error::{Error, ErrorCode},
    figure::{Figure, FigureKind},
};

/// Operations of a thread that are under way at most: some times what keeps data nodes busy, and one each for the connections
/// that a thread has at most where each has one command under way.
pub(crate) const PLACES: usize = 8192;
/// How long others wait for their turn.
const WAIT: Duration = Duration::from_millis(100);

/// What all threads have done.
#[derive(Debug, Default)]
struct Counted {
    waited: AtomicU64,
    refused: AtomicU64,
}

/// The door of one thread.
#[derive(Clone, Debug)]
pub struct Admission {
    places: Arc<Semaphore>,
    counted: Arc<Counted>,
}

/// The places of operations that were admitted, until they are answered.
pub type Places = Option<OwnedSemaphorePermit>;

/// Whether these places are enough for so many operations.
pub fn covers(places: &Places, operations: usize) -> bool {
    places.as_ref().is_none_or(|places| places.num_permits() >= operations.min(PLACES))
}

/// How many operations count for a request. Statements of interactive transactions, but for one that is all of its
/// transaction, questions and changes of the catalog need no room: what holds locks must be able to end.
pub fn operations(request: &Request) -> usize {
    match request {
        Request::Independent { operations, .. } | Request::Transaction { operations, .. } => {
            operations.count.into()
        }
        Request::Statement(Statement { begin: Some(_), end: End::Commit, operations, .. }) => {
            operations.count.into()
        }
        Request::ScanStep { .. } | Request::RangeStep(_) => 1,
        Request::Statement(_) | Request::Status(_) | Request::Change(_) => 0,
    }
}

impl Default for Admission {
    fn default() -> Admission {
        Admission { places: Arc::new(Semaphore::new(PLACES)), counted: Arc::default() }
    }
}

impl Admission {
    /// The door of another thread of this process.
    pub fn of_another_thread(&self) -> Admission {
        Admission { counted: self.counted.clone(), ..Admission::default() }
    }

    /// Waits until there is room for so many operations.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`] if there is none for too long.
    pub async fn admit(&self, operations: usize) -> Result<Places, Error> {
        if operations == 0 {
            return Ok(None);
        }
        // A request that is larger than the whole has it alone.
        let wanted = operations.min(PLACES) as u32;
        if let Ok(places) = self.places.clone().try_acquire_many_owned(wanted) {
            return Ok(Some(places));
        }
        self.counted.waited.fetch_add(1, Ordering::Relaxed);
        match timeout(WAIT, self.places.clone().acquire_many_owned(wanted)).await {
            Ok(places) => Ok(Some(places.expect("the semaphore is not closed"))),
            Err(_) => {
                Err(self.refuse(format!("{PLACES} operations are under way in this thread of the API node")))
            }
        }
    }

    /// The error for what is refused for want of room, and why; it is counted.
    fn refuse(&self, why: String) -> Error {
        self.counted.refused.fetch_add(1, Ordering::Relaxed);
        Error::new(ErrorCode::Overloaded, why)
    }

    /// The error for a call that comes while so many others of its thread are not answered, if they are as many as may
    /// have operations under way: it would only wait, with all that it has brought.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`], if so.
    pub fn check_calls(&self, open: usize) -> Result<(), Error> {
        match open < PLACES {
            true => Ok(()),
            false => {
                Err(self.refuse(format!("{open} calls wait for answers in this thread of the API node")))
            }
        }
    }

    /// What all threads have done.
    pub fn figures(&self, tell: &mut dyn FnMut(Figure)) {
        let mut counter = |name, help, value: &AtomicU64| {
            let value = value.load(Ordering::Relaxed);
            tell(Figure { kind: FigureKind::Counter, ..Figure::gauge("admission", name, help, value) });
        };
        counter("waited", "Requests that had to wait for others to end", &self.counted.waited);
        counter(
            "refused",
            "Requests refused after such a wait, or because too many wait already",
            &self.counted.refused,
        );
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};
    use twofold_apinode::request::{Begin, Operations};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_refused_soon() {
        let admission = Admission::default();
        let most = admission.admit(PLACES - 1).await.unwrap();
        let start = Instant::now();
        let error = admission.admit(2).await.unwrap_err();
        assert_eq!((error.code, start.elapsed()), (ErrorCode::Overloaded, WAIT));
        let one = admission.admit(1).await.unwrap();
        assert_eq!([1, 2].map(|operations| covers(&one, operations)), [true, false]);
        drop(most);
        let mut figures = Vec::new();
        admission.of_another_thread().figures(&mut |figure| figures.push((figure.name, figure.value)));
        assert_eq!(figures, [("waited", 1), ("refused", 1)]);
    }

    #[test]
    fn calls_are_refused_where_as_many_wait_as_may_have_operations() {
        let admission = Admission::default();
        assert!(admission.check_calls(PLACES - 1).is_ok());
        assert_eq!(admission.check_calls(PLACES).unwrap_err().code, ErrorCode::Overloaded);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_admitted_first_come_first_served() {
        let admission = Admission::default();
        let first = admission.admit(PLACES).await.unwrap();
        let large = tokio::spawn({
            let admission = admission.clone();
            async move { admission.admit(PLACES).await }
        });
        tokio::task::yield_now().await;
        let small = tokio::spawn({
            let admission = admission.clone();
            async move { admission.admit(1).await }
        });
        tokio::task::yield_now().await;
        advance(WAIT / 2).await;
        drop(first);
        let large = large.await.unwrap().unwrap();
        assert!(!small.is_finished(), "it came later");
        drop(large);
        assert!(small.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_larger_than_the_whole_has_it_alone_and_what_ends_transactions_needs_no_room() {
        let admission = Admission::default();
        let all = admission.admit(2 * PLACES).await.unwrap();
        assert!(covers(&all, 2 * PLACES));
        assert!(admission.admit(1).await.is_err());
        assert!(
            admission.admit(operations(&Request::Statement(Statement::default()))).await.unwrap().is_none()
        );
        // One that is all of its transaction holds nothing yet.
        let list = Operations { count: 3, ..Operations::default() };
        let whole = |begin, end| {
            operations(&Request::Statement(Statement {
                begin,
                end,
                operations: list.clone(),
                ..Statement::default()
            }))
        };
        let begin = Some(Begin::default());
        assert_eq!([whole(begin, End::Commit), whole(begin, End::Stay), whole(None, End::Commit)], [3, 0, 0]);
        drop(all);
        assert!(admission.admit(1).await.is_ok());
    }
}
