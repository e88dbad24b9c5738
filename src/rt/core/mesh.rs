//! Channels between cores: one from each to each other, bounded.
//!
//! Nobody waits for room. A sender counts what it has sent and was not answered; below the bound
//! there is room by construction, so a message that was given a place is always taken.

use glommio::channels::shared_channel::{
    self, ConnectedReceiver, ConnectedSender, SharedReceiver, SharedSender,
};

/// One core's ends, before the core runs.
#[derive(Debug)]
pub struct Port<T: Send + 'static> {
    senders: Vec<Option<SharedSender<T>>>,
    receivers: Vec<Option<SharedReceiver<T>>>,
}

/// Makes the channels among `cores` cores, each for `capacity` messages under way.
pub fn mesh<T: Send + 'static>(cores: usize, capacity: usize) -> Vec<Port<T>> {
    let mut ports: Vec<Port<T>> = (0..cores)
        .map(|_| Port {
            senders: (0..cores).map(|_| None).collect(),
            receivers: (0..cores).map(|_| None).collect(),
        })
        .collect();
    for from in 0..cores {
        for to in (0..cores).filter(|&to| to != from) {
            let (sender, receiver) = shared_channel::new_bounded(capacity);
            ports[from].senders[to] = Some(sender);
            ports[to].receivers[from] = Some(receiver);
        }
    }
    ports
}

/// One core's ends, connected.
#[derive(Debug)]
pub struct Mesh<T: Send + 'static> {
    senders: Vec<Option<ConnectedSender<T>>>,
}

impl<T: Send + 'static> Port<T> {
    /// Connects to all other cores. `take` gets what they send, on tasks of this core.
    pub async fn connect(self, take: impl Fn(T) + Clone + 'static) -> Mesh<T> {
        for receiver in self.receivers.into_iter().flatten() {
            let take = take.clone();
            super::spawn(async move {
                let receiver: ConnectedReceiver<T> = receiver.connect().await;
                while let Some(message) = receiver.recv().await {
                    take(message);
                    super::pause().await;
                }
            });
        }
        // All at once: each waits until the other side has begun.
        let connecting: Vec<_> = self
            .senders
            .into_iter()
            .map(|sender| sender.map(|s| glommio::spawn_local(s.connect())))
            .collect();
        let mut senders = Vec::with_capacity(connecting.len());
        for task in connecting {
            senders.push(match task {
                Some(task) => Some(task.await),
                None => None,
            });
        }
        Mesh { senders }
    }
}

impl<T: Send + 'static> Mesh<T> {
    /// Sends to another core. Gives the message back when it does not take any more.
    pub fn send(&self, core: usize, message: T) -> Result<(), T> {
        match self.senders.get(core) {
            Some(Some(sender)) => sender.try_send(message).map_err(|error| match error {
                glommio::GlommioError::Closed(glommio::ResourceType::Channel(message))
                | glommio::GlommioError::WouldBlock(glommio::ResourceType::Channel(message)) => {
                    message
                }
                other => unreachable!("a channel refuses with the message: {other}"),
            }),
            _ => Err(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::rt::core::{Core, cpus, io_memory, sleep};

    #[test]
    fn a_full_channel_gives_the_message_back() {
        const CAPACITY: usize = 8;
        let cpu = cpus().first().copied().unwrap_or(0);
        let mut ports = mesh::<u32>(2, CAPACITY).into_iter();
        let (from, to) = (ports.next().expect("a port"), ports.next().expect("a port"));
        let (over, mut is_over) = tokio::sync::oneshot::channel::<()>();
        let receiving = Core::start("to", cpu, io_memory(2), move || async move {
            let got = Rc::new(Cell::new(0));
            let count = got.clone();
            let _mesh = to.connect(move |_| count.set(count.get() + 1)).await;
            while is_over.try_recv().is_err() {
                sleep(Duration::from_millis(1)).await;
            }
            got.get()
        });
        let sending = Core::start("from", cpu, io_memory(2), move || async move {
            let mesh = from.connect(|_| ()).await;
            // Both cores share a processor, and this one does not let go of it meanwhile.
            let (mut taken, mut given_back) = (0, 0);
            for message in 0..1000 {
                match mesh.send(1, message) {
                    Ok(()) => taken += 1,
                    Err(back) => {
                        assert_eq!(back, message);
                        given_back += 1;
                    }
                }
            }
            sleep(Duration::from_millis(100)).await;
            let again = mesh.send(1, 7);
            sleep(Duration::from_millis(100)).await;
            (taken, given_back, again)
        });
        let (taken, given_back, again) = sending.expect("a core").join().expect("no panic");
        assert_eq!(taken + given_back, 1000);
        assert!(given_back > 0, "{taken} were taken at once, of {CAPACITY} at a time");
        assert_eq!(again, Ok(()), "there is room when they were read");
        over.send(()).expect("it waits");
        let got = receiving.expect("a core").join().expect("no panic");
        assert_eq!(got, taken + 1, "what was taken arrives");
    }
}
