//! Doors and connections of the data port.
//!
//! Every core listens on the same address (SO_REUSEPORT) and the kernel deals connections out by
//! their hash. With few senders that is uneven, so a core that has accepted a socket hands it to
//! the one with the fewest connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use glommio::net::{AcceptedTcpStream, TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use crate::rt::clock::Moment;
use crate::telemetry::log::Sampled;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;
/// Connections that a core holds beyond its most, to tell them so before they are closed.
const REFUSED_MAX: usize = 2;
/// How often it is told that connections cannot be accepted.
const TELL_EVERY_MS: i64 = 60_000;

/// A connection on its core.
pub type Stream = TcpStream;

/// The doors of one core, bound, and who holds how many connections.
#[derive(Debug)]
pub struct Doors {
    sockets: Vec<Socket>,
    held: Arc<[AtomicUsize]>,
    core: usize,
    held_max: usize,
}

impl Doors {
    /// Binds the addresses for each of `cores` cores. Port 0 becomes the same free port for all;
    /// the addresses bound are returned. A core holds little more than `connections_max`
    /// connections: those that are too many even to be told so are closed at once, and counted.
    pub fn open(
        addresses: &[SocketAddr],
        cores: usize,
        connections_max: usize,
    ) -> io::Result<(Vec<Self>, Vec<SocketAddr>)> {
        let held: Arc<[AtomicUsize]> = (0..cores).map(|_| AtomicUsize::new(0)).collect();
        let held_max = connections_max.saturating_add(REFUSED_MAX);
        let mut doors: Vec<Self> = (0..cores)
            .map(|core| Self { sockets: Vec::new(), held: held.clone(), core, held_max })
            .collect();
        let mut bound = Vec::new();
        for &address in addresses {
            let mut address = address;
            for door in &mut doors {
                let socket = bind(address)?;
                if let Some(real) = socket.local_addr()?.as_socket() {
                    address = real;
                }
                door.sockets.push(socket);
            }
            bound.push(address);
        }
        Ok((doors, bound))
    }

    /// Accepts for ever on this core's sockets; gives each connection, with the core that shall
    /// have it, to `hand_on`. For each that is closed at once `too_many` is called.
    pub fn accept(
        self,
        hand_on: impl Fn(usize, Accepted) + Clone + 'static,
        too_many: impl Fn() + Clone + 'static,
    ) {
        for socket in self.sockets {
            let listener = listener(socket);
            let (held, own, held_max) = (self.held.clone(), self.core, self.held_max);
            let (hand_on, too_many) = (hand_on.clone(), too_many.clone());
            super::spawn(async move {
                let begun = Moment::now();
                let mut told = Sampled::every_ms(TELL_EVERY_MS);
                loop {
                    match listener.shared_accept().await {
                        Ok(stream) => {
                            let core = fewest(&held, own);
                            let place = Place::take(held.clone(), core);
                            let accepted = Accepted { stream: Some(stream), place: Some(place) };
                            if count(&held, core) <= held_max {
                                hand_on(core, accepted);
                            } else {
                                too_many();
                            }
                        }
                        // Out of descriptors, most likely: the connection waits in the backlog.
                        Err(error) => {
                            if let Some(more) = told.pass(begun.elapsed().as_millis() as i64) {
                                tracing::warn!(%error, more, "cannot accept connections");
                            }
                            super::sleep(Duration::from_millis(100)).await;
                        }
                    }
                    // Connections that wait are accepted without a wait: others get their turn.
                    super::pause().await;
                }
            });
        }
    }
}

/// The core with the fewest connections; the own one when that is among them.
fn fewest(held: &[AtomicUsize], own: usize) -> usize {
    let less = |core, best| count(held, core) < count(held, best);
    (0..held.len()).fold(own, |best, core| if less(core, best) { core } else { best })
}

fn count(held: &[AtomicUsize], core: usize) -> usize {
    held.get(core).map_or(usize::MAX, |count| count.load(Ordering::Relaxed))
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

#[expect(unsafe_code, reason = "glommio takes a bound socket only by its descriptor")]
fn listener(socket: Socket) -> TcpListener {
    let fd = socket.into_raw_fd();
    // SAFETY: the descriptor was just given up by its only owner and is a listening TCP socket.
    unsafe { TcpListener::from_raw_fd(fd) }
}

/// A place among the connections of a core; given back when dropped.
#[derive(Debug)]
pub struct Place {
    held: Arc<[AtomicUsize]>,
    core: usize,
}

impl Place {
    fn take(held: Arc<[AtomicUsize]>, core: usize) -> Self {
        if let Some(count) = held.get(core) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Self { held, core }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(count) = self.held.get(self.core) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A connection that no core has yet. Closes itself when nobody takes it.
#[derive(Debug)]
pub struct Accepted {
    stream: Option<AcceptedTcpStream>,
    place: Option<Place>,
}

impl Accepted {
    /// Takes the connection over on the present core. The place is kept while it lasts.
    pub fn take(mut self) -> Option<(Stream, Place)> {
        let stream = self.stream.take()?.bind_to_executor();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        Some((stream, self.place.take()?))
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        // Unbound it would leak its descriptor. Bound to this core, it is closed.
        if let Some(stream) = self.stream.take() {
            drop(stream.bind_to_executor());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::TcpStream;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::rt::core::{Core, cpus, io_memory, sleep};

    /// Open sockets of this process that were accepted on a port. Closed ones have no inode.
    fn open_on(port: u16) -> usize {
        const LISTENS: &str = "0A";
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("proc");
        let is_open = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[1].ends_with(&format!(":{port:04X}")) && fields[3] != LISTENS && fields[9] != "0"
        };
        table.lines().skip(1).filter(is_open).count()
    }

    /// Has a core with one door accept `connections` and do with each what `take` does; how many
    /// are open in the end.
    fn left_of(connections: usize, take: fn(Accepted)) -> usize {
        let loopback = [SocketAddr::from(([127, 0, 0, 1], 0))];
        let (mut doors, bound) = Doors::open(&loopback, 1, 1024).expect("a port");
        let door = doors.pop().expect("a door");
        let to = bound[0];
        let cpu = cpus().first().copied().unwrap_or(0);
        let core = Core::start("door", cpu, io_memory(1), move || async move {
            let seen = Rc::new(RefCell::new(0));
            let count = seen.clone();
            let take = move |_, accepted| {
                *count.borrow_mut() += 1;
                take(accepted);
            };
            door.accept(take, || panic!("there is room for more"));
            let streams: Vec<TcpStream> =
                (0..connections).map(|_| TcpStream::connect(to).expect("connects")).collect();
            while *seen.borrow() < connections {
                sleep(Duration::from_millis(1)).await;
            }
            drop(streams);
            sleep(Duration::from_millis(100)).await;
            open_on(to.port())
        });
        core.expect("a core").join().expect("no panic")
    }

    #[test]
    fn a_connection_nobody_takes_is_closed() {
        assert_eq!(left_of(200, drop), 0);
        let leak = |accepted| {
            let _left_open = Box::leak(Box::new(accepted));
        };
        assert_eq!(left_of(3, leak), 3, "it sees what is not closed");
    }

    #[test]
    fn a_connection_too_many_to_be_told_is_counted() {
        const MOST: usize = 5;
        let loopback = [SocketAddr::from(([127, 0, 0, 1], 0))];
        let (mut doors, bound) = Doors::open(&loopback, 1, MOST).expect("a port");
        let door = doors.pop().expect("a door");
        let cpu = cpus().first().copied().unwrap_or(0);
        let core = Core::start("door", cpu, io_memory(1), move || async move {
            let (held, closed) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(0)));
            let (all, count) = (held.clone(), closed.clone());
            let hold = move |_, accepted| all.borrow_mut().push(accepted);
            door.accept(hold, move || *count.borrow_mut() += 1);
            let connect = |_| TcpStream::connect(bound[0]).expect("connects");
            let _streams: Vec<TcpStream> = (0..4 * MOST).map(connect).collect();
            while held.borrow().len() + *closed.borrow() < 4 * MOST {
                sleep(Duration::from_millis(1)).await;
            }
            (held.borrow().len(), *closed.borrow())
        });
        let counts = core.expect("a core").join().expect("no panic");
        assert_eq!(counts, (MOST + REFUSED_MAX, 3 * MOST - REFUSED_MAX));
    }

    #[test]
    fn connections_are_spread_over_cores() {
        let held: Arc<[AtomicUsize]> = (0..3).map(|_| AtomicUsize::new(0)).collect();
        // All come in by the door of core 2, and leave its place only when it has most.
        let mut places: Vec<Place> = Vec::new();
        for _ in 0..9 {
            places.push(Place::take(held.clone(), fewest(&held, 2)));
        }
        let counts = || -> Vec<usize> { held.iter().map(|c| c.load(Ordering::Relaxed)).collect() };
        assert_eq!(counts(), [3, 3, 3]);
        places.retain(|place| place.core != 1);
        assert_eq!(fewest(&held, 2), 1);
        drop(places);
        assert_eq!((counts(), fewest(&held, 2)), (vec![0, 0, 0], 2));
    }
}
