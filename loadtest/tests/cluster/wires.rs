//! The wires between nodes, which can be cut: a proxy before each node's gRPC that knows which process a connection comes from.
//!
//! A cut wire behaves as one that loses packets: connections stay open and nothing passes, until the wire is mended. The wires of a node can
//! be slow as well.

use std::{
    collections::HashSet,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// All wires of a cluster.
#[derive(Clone, Default)]
pub(crate) struct Wires(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Process ids of the nodes.
    pids: Mutex<Vec<Option<u32>>>,
    /// Pairs of nodes, the smaller number first, between which nothing passes.
    cut: Mutex<HashSet<(usize, usize)>>,
    /// A node to and from which everything takes so much longer.
    slow: Mutex<Option<(usize, Duration)>>,
    ended: AtomicBool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

const POLL: Duration = Duration::from_millis(20);

impl Wires {
    /// A proxy before node `number`, whose gRPC is at `to`; gives its address.
    pub(crate) fn before(&self, number: usize, to: SocketAddr) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::downgrade(&self.0);
        thread::spawn(move || {
            while let Ok((stream, from)) = listener.accept() {
                let Some(shared) = shared.upgrade() else { return };
                thread::spawn(move || pass(&shared, number, &stream, from, to));
            }
        });
        Ok(address)
    }

    pub(crate) fn set_pid(&self, number: usize, pid: u32) {
        let mut pids = self.0.pids.lock().unwrap();
        let len = pids.len().max(number + 1);
        pids.resize(len, None);
        pids[number] = Some(pid);
    }

    /// Nothing passes between these two.
    pub(crate) fn cut(&self, one: usize, other: usize) {
        self.0.cut.lock().unwrap().insert((one.min(other), one.max(other)));
    }

    /// Everything to and from this node takes longer.
    pub(crate) fn slow_down(&self, number: usize, delay: Duration) {
        *self.0.slow.lock().unwrap() = Some((number, delay));
    }

    pub(crate) fn mend(&self) {
        self.0.cut.lock().unwrap().clear();
        *self.0.slow.lock().unwrap() = None;
    }
}

impl Shared {
    fn is_cut(&self, one: usize, other: usize) -> bool {
        let cut = self.cut.lock().unwrap();
        cut.contains(&(one.min(other), one.max(other)))
    }

    /// Waits as long as something on its way between these two has to.
    fn hold(&self, one: usize, other: usize) {
        let slow = *self.slow.lock().unwrap();
        if let Some((_, delay)) = slow.filter(|(number, _)| one == *number || other == *number) {
            thread::sleep(delay);
        }
        while self.is_cut(one, other) && !self.ended.load(Ordering::Relaxed) {
            thread::sleep(POLL);
        }
    }

    /// The node whose process holds the socket between these addresses.
    fn node_of(&self, from: SocketAddr, to: SocketAddr) -> Option<usize> {
        let deadline = Instant::now() + Duration::from_secs(1);
        while Instant::now() < deadline {
            // The kernel writes its table piece by piece, and a socket can be missing from one reading of it.
            let inode = inode_of(from, to);
            let pids = self.pids.lock().unwrap().clone();
            let is_holder = |pid: u32| inode.as_ref().is_some_and(|inode| holds(pid, inode));
            let holder = pids.iter().position(|pid| pid.is_some_and(is_holder));
            if holder.is_some() {
                return holder;
            }
            thread::sleep(POLL);
        }
        None
    }
}

/// The inode of the socket between these addresses. A port can belong to several sockets, of which some have ended.
fn inode_of(from: SocketAddr, to: SocketAddr) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let ports = [from, to].map(|address| format!(":{:04X}", address.port()));
    let line = table.lines().skip(1).find(|line| {
        let ends = line.split_whitespace().skip(1).zip(&ports);
        ends.filter(|(end, port)| end.ends_with(*port)).count() == 2
    })?;
    line.split_whitespace().nth(9).map(str::to_owned)
}

fn holds(pid: u32, inode: &str) -> bool {
    let socket = format!("socket:[{inode}]");
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let mut links = entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.any(|link| link.to_string_lossy() == socket)
}

fn pass(shared: &Shared, number: usize, client: &TcpStream, from: SocketAddr, to: SocketAddr) {
    // Nobody's connection would be one that no cut concerns.
    let Some(source) = client.local_addr().ok().and_then(|own| shared.node_of(from, own)) else {
        return;
    };
    let hold = || shared.hold(source, number);
    hold();
    let Ok(server) = TcpStream::connect_timeout(&to, Duration::from_secs(1)) else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server, &hold));
        copy(&server, client, &hold);
    });
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, hold: &dyn Fn()) {
    let _ = from.set_read_timeout(Some(Duration::from_millis(200)));
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                hold();
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
