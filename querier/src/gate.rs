//! A bound on how many requests run at the same time, and on how many wait, fair among tenants.
//!
//! A thousand panels that refresh at once take turns instead of taking the memory of the node. A free place goes to the tenant that
//! has the fewest requests running; within a tenant to the one that waits longest. When too many wait, the tenant with the longest
//! queue loses its newest request, so that a flood drowns only itself.

use crate::metrics::{Kind, Metrics};
use hashbrown::HashMap;
use model::tenant::Tenant;
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::oneshot;

/// Lets a bounded number of requests run and a bounded number wait.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

/// How many requests may be where.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Run at the same time; at least one may.
    pub running: usize,
    /// Run at the same time for one tenant, so that places stay free for others; 0 for no bound of its own.
    pub tenant_running: usize,
    /// Wait for their turn.
    pub waiting: usize,
}

struct Shared {
    kind: &'static str,
    bounds: Bounds,
    state: Mutex<State>,
    running_gauge: Gauge,
    waiting_gauge: Gauge,
    refused: Counter,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: usize,
    /// Tenants with a request inside; others are forgotten.
    tenants: HashMap<Tenant, Line>,
}

/// The requests of one tenant.
#[derive(Default)]
struct Line {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Result<Permit, Full>>>,
}

/// The right to run; dropping it lets the next one in.
pub struct Permit {
    shared: Arc<Shared>,
    tenant: Tenant,
}

/// Too many requests are waiting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("too many requests at once: {running} of kind {kind} may run and {waiting} may wait; try again later")]
pub struct Full {
    kind: &'static str,
    running: usize,
    waiting: usize,
}

impl Gate {
    /// A gate for requests of this kind.
    pub fn new(kind: &'static str, bounds: Bounds, metrics: &Metrics) -> Self {
        let running = bounds.running.max(1);
        let tenant_running = match bounds.tenant_running {
            0 => running,
            bound => bound.min(running),
        };
        let label = Kind { kind };
        let shared = Shared {
            kind,
            bounds: Bounds {
                running,
                tenant_running,
                ..bounds
            },
            state: Mutex::default(),
            running_gauge: metrics.running.get_or_create_owned(&label),
            waiting_gauge: metrics.waiting.get_or_create_owned(&label),
            refused: metrics.refused.get_or_create_owned(&label),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Waits for a turn. The caller bounds the time; it may go away at any moment.
    pub async fn enter(&self, tenant: &Tenant) -> Result<Permit, Full> {
        let receiver = match self.shared.line_up(tenant) {
            Entrance::Now(permit) => return Ok(permit),
            Entrance::Later(receiver) => receiver,
            Entrance::Never(full) => return Err(full),
        };
        let mut place = Place {
            shared: &self.shared,
            tenant,
            receiver,
        };
        // The other end is dropped only with the gate; then nothing runs any more.
        (&mut place.receiver).await.unwrap_or_else(|_| Err(self.shared.full()))
    }
}

enum Entrance {
    Now(Permit),
    Later(oneshot::Receiver<Result<Permit, Full>>),
    Never(Full),
}

impl Shared {
    fn line_up(self: &Arc<Self>, tenant: &Tenant) -> Entrance {
        let mut state = self.state.lock();
        // While places are free, only tenants at their own bound wait.
        let own = state.tenants.get(tenant).map_or(0, |line| line.running);
        if state.running < self.bounds.running && own < self.bounds.tenant_running {
            return Entrance::Now(self.admit(&mut state, tenant));
        }
        if state.waiting >= self.bounds.waiting && !state.evict(tenant, self.full()) {
            self.refused.inc();
            return Entrance::Never(self.full());
        }
        let (sender, receiver) = oneshot::channel();
        state
            .tenants
            .entry(tenant.clone())
            .or_default()
            .waiting
            .push_back(sender);
        state.waiting += 1;
        self.show(&state);
        Entrance::Later(receiver)
    }

    /// Counts a request of `tenant` as running.
    fn admit(self: &Arc<Self>, state: &mut State, tenant: &Tenant) -> Permit {
        state.running += 1;
        state.tenants.entry(tenant.clone()).or_default().running += 1;
        self.show(state);
        Permit {
            shared: self.clone(),
            tenant: tenant.clone(),
        }
    }

    /// A request has ended: the next one gets its place.
    fn release(self: &Arc<Self>, tenant: &Tenant) {
        let mut state = self.state.lock();
        state.running -= 1;
        if let Some(line) = state.tenants.get_mut(tenant) {
            line.running -= 1;
        }
        state.forget_if_idle(tenant);
        let next = state.next_waiting(self.bounds.tenant_running);
        let turn = next.map(|(tenant, sender)| (self.admit(&mut state, &tenant), sender));
        self.show(&state);
        // Unlocked first: if the waiting one has just gone, its permit comes back and is dropped here, which locks again.
        drop(state);
        if let Some((permit, sender)) = turn {
            drop(sender.send(Ok(permit)));
        }
    }

    fn show(&self, state: &State) {
        self.running_gauge.set(state.running as i64);
        self.waiting_gauge.set(state.waiting as i64);
    }

    fn full(&self) -> Full {
        Full {
            kind: self.kind,
            running: self.bounds.running,
            waiting: self.bounds.waiting,
        }
    }
}

impl State {
    /// The request whose turn it is; none of a tenant that has `tenant_max` running.
    fn next_waiting(&mut self, tenant_max: usize) -> Option<(Tenant, oneshot::Sender<Result<Permit, Full>>)> {
        loop {
            let next_in_line = |line: &Line| !line.waiting.is_empty() && line.running < tenant_max;
            let waiting = self.tenants.iter().filter(|(_, line)| next_in_line(line));
            // Equal tenants are ordered by name, so that a simulation replays.
            let tenant = waiting
                .min_by_key(|(tenant, line)| (line.running, *tenant))
                .map(|(tenant, _)| tenant.clone())?;
            let sender = self.tenants.get_mut(&tenant)?.waiting.pop_front()?;
            self.waiting -= 1;
            if !sender.is_closed() {
                return Some((tenant, sender));
            }
            self.forget_if_idle(&tenant);
        }
    }

    /// Makes room for a request of `tenant` at the cost of a tenant that has more of them waiting.
    fn evict(&mut self, tenant: &Tenant, full: Full) -> bool {
        let own = self.tenants.get(tenant).map_or(0, |line| line.waiting.len());
        let longest = self.tenants.values_mut().max_by_key(|line| line.waiting.len());
        let Some(line) = longest.filter(|line| line.waiting.len() > own + 1) else {
            return false;
        };
        let Some(newest) = line.waiting.pop_back() else {
            return false;
        };
        self.waiting -= 1;
        drop(newest.send(Err(full)));
        true
    }

    fn forget_if_idle(&mut self, tenant: &Tenant) {
        if self
            .tenants
            .get(tenant)
            .is_some_and(|line| line.running == 0 && line.waiting.is_empty())
        {
            self.tenants.remove(tenant);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.release(&self.tenant);
    }
}

/// A place in the queue; one who leaves gives it up.
struct Place<'a> {
    shared: &'a Arc<Shared>,
    tenant: &'a Tenant,
    receiver: oneshot::Receiver<Result<Permit, Full>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        let mut state = self.shared.state.lock();
        if let Some(line) = state.tenants.get_mut(self.tenant) {
            let before = line.waiting.len();
            line.waiting.retain(|sender| !sender.is_closed());
            let gone = before - line.waiting.len();
            state.waiting -= gone;
        }
        state.forget_if_idle(self.tenant);
        self.shared.show(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, future::BoxFuture};
    use prometheus_client::registry::Registry;

    fn gate(running: usize, waiting: usize) -> Gate {
        bounded(Bounds {
            running,
            tenant_running: 0,
            waiting,
        })
    }

    fn bounded(bounds: Bounds) -> Gate {
        Gate::new("query", bounds, &Metrics::new(&mut Registry::default()))
    }

    fn tenant(name: &str) -> Tenant {
        Tenant::new(name).unwrap()
    }

    /// A request that has already lined up.
    fn wait(gate: &Gate, name: &str) -> BoxFuture<'static, Result<Permit, Full>> {
        let (gate, tenant) = (gate.clone(), tenant(name));
        let mut waiting = async move { gate.enter(&tenant).await }.boxed();
        assert!((&mut waiting).now_or_never().is_none(), "{name} did not have to wait");
        waiting
    }

    fn enter(gate: &Gate, name: &str) -> Option<Result<Permit, Full>> {
        gate.enter(&tenant(name)).now_or_never()
    }

    #[test]
    fn places_are_given_in_the_order_of_arrival() {
        let gate = gate(1, 10);
        let first = enter(&gate, "a").unwrap().unwrap();
        let mut second = wait(&gate, "a");
        let mut third = wait(&gate, "a");
        drop(first);
        assert!((&mut third).now_or_never().is_none());
        let second = (&mut second).now_or_never().unwrap().unwrap();
        drop(second);
        assert!((&mut third).now_or_never().unwrap().is_ok());
    }

    #[test]
    fn a_tenant_with_less_running_comes_first() {
        let gate = gate(2, 10);
        let running = [enter(&gate, "a").unwrap().unwrap(), enter(&gate, "a").unwrap().unwrap()];
        let mut flood: Vec<_> = (0..5).map(|_| wait(&gate, "a")).collect();
        let mut other = wait(&gate, "b");
        drop(running);
        let _other = (&mut other)
            .now_or_never()
            .expect("b waits behind the flood of a")
            .unwrap();
        let served: Vec<_> = flood.iter_mut().filter_map(|request| request.now_or_never()).collect();
        assert_eq!(served.len(), 1);
    }

    #[test]
    fn a_tenant_at_its_own_bound_leaves_places_free() {
        let gate = bounded(Bounds {
            running: 3,
            tenant_running: 2,
            waiting: 10,
        });
        let first = enter(&gate, "a").unwrap().unwrap();
        let second = enter(&gate, "a").unwrap().unwrap();
        let mut third = wait(&gate, "a");
        let other = enter(&gate, "b").unwrap().unwrap();
        let mut fourth = wait(&gate, "a");
        // The place of the other tenant is not for those at their bound.
        drop(other);
        assert!((&mut third).now_or_never().is_none());
        let _other = enter(&gate, "b").unwrap().unwrap();
        drop(first);
        let third = (&mut third).now_or_never().expect("below its bound again").unwrap();
        assert!((&mut fourth).now_or_never().is_none());
        drop((second, third));
        assert!((&mut fourth).now_or_never().is_some());
    }

    #[test]
    fn a_flood_drowns_only_itself() {
        let gate = gate(1, 4);
        let _running = enter(&gate, "a").unwrap().unwrap();
        let mut flood: Vec<_> = (0..4).map(|_| wait(&gate, "a")).collect();
        assert!(enter(&gate, "a").unwrap().is_err(), "the queue is full");
        let _first = wait(&gate, "b");
        let full = flood.pop().unwrap().now_or_never().unwrap().err().unwrap();
        assert_eq!((full.running, full.waiting), (1, 4));
        let _second = wait(&gate, "b");
        assert!(flood.pop().unwrap().now_or_never().unwrap().is_err());
        assert!(enter(&gate, "b").unwrap().is_err(), "both have two waiting now");
    }

    #[test]
    fn who_leaves_gives_up_the_place() {
        let gate = gate(1, 1);
        let running = enter(&gate, "a").unwrap().unwrap();
        drop(wait(&gate, "a"));
        let granted = wait(&gate, "a");
        drop(running);
        // It has been granted a permit that it never took.
        drop(granted);
        let inside = {
            let state = gate.shared.state.lock();
            (state.running, state.waiting, state.tenants.len())
        };
        assert_eq!(inside, (0, 0, 0));
        assert!(enter(&gate, "b").unwrap().is_ok());
        assert_eq!(gate.shared.running_gauge.get(), 0);
    }
}
