//! One pass over a queue: takes what is available, executes it, gives it back. Whoever owns the queue's thread calls it.

use std::io;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::execute::Executor;
use super::request::{Request, Used};

/// A queue and the way to its driver.
pub(super) trait Rings {
    /// The queue.
    fn queue(&mut self) -> &mut Queue;

    /// Tells the driver that buffers were used.
    ///
    /// # Errors
    /// The line could not be signalled.
    fn interrupt(&self) -> io::Result<()>;
}

/// What is wrong with a queue that cannot be served any longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Queue(#[from] virtio_queue::Error),
    #[error("more buffers are available than the queue has entries")]
    Overfull,
    #[error("the available ring cannot be read")]
    Unreadable,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves what is available now, at most one queue full. Says whether more has come meanwhile.
///
/// # Errors
/// The rings make no sense, or the driver cannot be reached.
pub(super) fn drain(
    rings: &mut impl Rings,
    executor: &mut Executor,
    memory: &GuestMemoryMmap,
) -> Result<bool, Broken> {
    rings.queue().disable_notification(memory)?;
    let end = rings.queue().avail_idx(memory, Ordering::Acquire)?.0;
    let available = end.wrapping_sub(rings.queue().next_avail());
    if available > rings.queue().size() {
        return Err(Broken::Overfull);
    }
    for _ in 0..available {
        let chain = rings.queue().pop_descriptor_chain(memory).ok_or(Broken::Unreadable)?;
        let completion = match Request::parse(chain, memory) {
            Ok(request) => executor.execute(request, memory),
            Err(error) => {
                tracing::debug!(%error, "the driver sent something that is no request");
                executor.count_malformed();
                error.fail()
            }
        };
        let Used { head, length } = completion.finish(memory);
        rings.queue().add_used(memory, head, length)?;
        notify(rings, memory)?;
    }
    Ok(rings.queue().enable_notification(memory)?)
}

/// Interrupts the driver unless it said that it need not know.
fn notify(rings: &mut impl Rings, memory: &GuestMemoryMmap) -> Result<(), Broken> {
    let queue = rings.queue();
    if !queue.needs_notification(memory)? {
        return Ok(());
    }
    // virtio-queue looks at the event index only; without one the driver has a flag (section 2.7.7.2).
    if !queue.event_idx_enabled() {
        let flags = memory.load(GuestAddress(queue.avail_ring()), Ordering::Relaxed).map(u16::from_le);
        if flags.is_ok_and(|flags| u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT != 0) {
            return Ok(());
        }
    }
    Ok(rings.interrupt()?)
}
