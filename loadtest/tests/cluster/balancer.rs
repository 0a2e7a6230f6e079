//! What stands before a cluster in production: a load balancer that gives each new connection to the next node in rotation.

use loadtest::population::mix;
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Passes connections on until it is dropped.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// Nodes and whether they are in rotation.
    nodes: Mutex<Vec<(SocketAddr, bool)>>,
    turn: AtomicUsize,
    /// Connections that are open: their number, the node, and both ends.
    open: Mutex<Vec<(usize, SocketAddr, [TcpStream; 2])>>,
    /// Of a thousand pieces of answers, how many are lost with their connection.
    lost_of_thousand: AtomicUsize,
    ended: AtomicBool,
}

impl Balancer {
    pub(crate) fn start(nodes: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            nodes: Mutex::new(nodes.into_iter().map(|node| (node, true)).collect()),
            turn: AtomicUsize::new(0),
            open: Mutex::default(),
            lost_of_thousand: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if accepting.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                thread::spawn(move || pass(&shared, &stream));
            }
        });
        Ok(Self { address, shared })
    }

    pub(crate) fn add(&self, node: SocketAddr) {
        self.shared.nodes.lock().unwrap().push((node, true));
    }

    /// Takes a node out of rotation or back in. Connections that are open stay; [`Balancer::evict`] ends them.
    pub(crate) fn set(&self, node: SocketAddr, in_rotation: bool) {
        for (address, state) in self.shared.nodes.lock().unwrap().iter_mut() {
            if *address == node {
                *state = in_rotation;
            }
        }
    }
}

impl Balancer {
    /// Takes a node out of rotation and ends the connections to it, as a balancer does whose health check failed.
    pub(crate) fn evict(&self, node: SocketAddr) {
        self.set(node, false);
        for (_, _, ends) in self.shared.open.lock().unwrap().iter().filter(|open| open.1 == node) {
            for end in ends {
                // It may have ended by itself.
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }

    /// From now on so many of a thousand answers never arrive: their connection breaks instead.
    pub(crate) fn lose_answers(&self, of_thousand: usize) {
        self.shared.lost_of_thousand.store(of_thousand, Ordering::Relaxed);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

fn pass(shared: &Shared, client: &TcpStream) {
    let nodes: Vec<SocketAddr> = {
        let nodes = shared.nodes.lock().unwrap();
        nodes
            .iter()
            .filter(|(_, state)| *state)
            .map(|(node, _)| *node)
            .collect()
    };
    let first = shared.turn.fetch_add(1, Ordering::Relaxed);
    let reached = (0..nodes.len()).find_map(|step| {
        let node = nodes[(first + step) % nodes.len()];
        Some((node, TcpStream::connect_timeout(&node, Duration::from_secs(1)).ok()?))
    });
    let Some((node, server)) = reached else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    if let (Ok(one), Ok(other)) = (client.try_clone(), server.try_clone()) {
        shared.open.lock().unwrap().push((first, node, [one, other]));
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server, &|| false));
        copy(&server, client, &|| {
            let lost = shared.lost_of_thousand.load(Ordering::Relaxed) as u64;
            lost > 0 && mix(shared.turn.fetch_add(1, Ordering::Relaxed) as u64) % 1000 < lost
        });
    });
    shared.open.lock().unwrap().retain(|(number, _, _)| *number != first);
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, is_lost: &dyn Fn() -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if is_lost() || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // Whichever way ends first ends the other.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
