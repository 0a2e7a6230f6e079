//! Large questions take turns, so that what each must have at hand is not there many times at once.
//!
//! A question over many blocks and series needs a window of every block, whatever memory is left, and those of many such questions
//! would not fit. So a few of them are answered at a time and the others wait, in the order in which they came. Small questions,
//! which nearly all are, never wait.
//!
//! Waiting must not go round in circles: a querier that merges two stores may hold a turn here while it waits for one there, and
//! another the other way round. So a turn lapses while nobody asks its answer for more, and no question waits for longer than
//! [`WAIT_MAX`]. Both only cost memory.

use model::env::Clock;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Large questions that are answered at the same time.
const AT_ONCE: usize = 1;

/// A turn lapses when its answer was not asked for more for so long.
const REST_MAX: Duration = Duration::from_millis(500);

/// Who waited for so long goes on without a turn.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How often somebody who waits looks whether it is their turn.
const LOOK: Duration = Duration::from_millis(10);

/// What a large question does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Waiting,
    Working,
    /// Its answer was given so far, at this time.
    Resting(Duration),
}

/// The turns of one gateway. Clones share them.
#[derive(Clone)]
pub(super) struct Turns {
    clock: Arc<dyn Clock>,
    /// Large questions by their numbers, which ascend.
    questions: Arc<Mutex<(u64, BTreeMap<u64, Doing>)>>,
}

/// A place among the large questions; it is given up when this is dropped.
pub(super) struct Turn {
    turns: Turns,
    number: u64,
}

impl Turns {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            questions: Arc::default(),
        }
    }

    /// Waits until it is this question's turn.
    pub(super) async fn enter(&self) -> Turn {
        let turn = self.queue();
        let begun = self.clock.monotonic();
        while !turn.is_due() && self.clock.monotonic().saturating_sub(begun) < WAIT_MAX {
            self.clock.sleep(LOOK).await;
        }
        turn.works();
        turn
    }

    fn queue(&self) -> Turn {
        let mut questions = self.questions.lock();
        let number = questions.0;
        questions.0 += 1;
        questions.1.insert(number, Doing::Waiting);
        Turn {
            turns: self.clone(),
            number,
        }
    }
}

impl Turn {
    /// Whether nobody came before and few enough are at work.
    fn is_due(&self) -> bool {
        let now = self.turns.clock.monotonic();
        let questions = self.turns.questions.lock();
        let is_first = questions
            .1
            .range(..self.number)
            .all(|(_, doing)| *doing != Doing::Waiting);
        let at_work = questions.1.values().filter(|doing| match doing {
            Doing::Waiting => false,
            Doing::Working => true,
            Doing::Resting(since) => now.saturating_sub(*since) < REST_MAX,
        });
        is_first && at_work.count() < AT_ONCE
    }

    /// More of the answer is being made.
    pub(super) fn works(&self) {
        self.turns.questions.lock().1.insert(self.number, Doing::Working);
    }

    /// What there is of the answer was given.
    pub(super) fn rests(&self) {
        let now = self.turns.clock.monotonic();
        self.turns.questions.lock().1.insert(self.number, Doing::Resting(now));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.questions.lock().1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, future::BoxFuture};
    use model::time::Timestamp;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A clock that stands until it is put forward.
    #[derive(Default)]
    struct Hand(AtomicU64);

    impl Hand {
        fn forward(&self, time: Duration) {
            self.0.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
        }
    }

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            0
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }

        /// Whoever sleeps is asked again at each poll.
        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            let mut is_over = false;
            Box::pin(futures::future::poll_fn(move |_| {
                match std::mem::replace(&mut is_over, true) {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                }
            }))
        }
    }

    #[test]
    fn large_questions_are_answered_one_after_the_other_in_their_order() {
        let turns = Turns::new(Arc::new(Hand::default()));
        let first = turns.enter().now_or_never().unwrap();
        let mut second = Box::pin(turns.enter());
        let mut third = Box::pin(turns.enter());
        for _ in 0..10 {
            assert!(second.as_mut().now_or_never().is_none());
            assert!(third.as_mut().now_or_never().is_none());
        }
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "the second came before");
        let second = second.now_or_never().unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        drop(third.now_or_never().unwrap());
        assert!(turns.questions.lock().1.is_empty());
    }

    #[test]
    fn who_goes_away_while_waiting_is_not_waited_for() {
        let turns = Turns::new(Arc::new(Hand::default()));
        let first = turns.enter().now_or_never().unwrap();
        let (mut second, mut third) = (Box::pin(turns.enter()), Box::pin(turns.enter()));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop((first, second));
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn a_turn_lapses_while_its_answer_is_not_asked_for_more() {
        let clock = Arc::new(Hand::default());
        let turns = Turns::new(clock.clone());
        let first = turns.enter().now_or_never().unwrap();
        first.rests();
        let mut second = Box::pin(turns.enter());
        assert!(second.as_mut().now_or_never().is_none());
        clock.forward(REST_MAX);
        let second = second.now_or_never().expect("the first rests for too long");
        // The first goes on when it is asked again, and the second is not stopped.
        first.works();
        let mut third = Box::pin(turns.enter());
        drop(first);
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn nobody_waits_for_ever() {
        let clock = Arc::new(Hand::default());
        let turns = Turns::new(clock.clone());
        let _first = turns.enter().now_or_never().unwrap();
        let mut second = Box::pin(turns.enter());
        assert!(second.as_mut().now_or_never().is_none());
        clock.forward(WAIT_MAX);
        assert!(second.now_or_never().is_some());
    }
}
