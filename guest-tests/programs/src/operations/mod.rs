//! A random sequence of file operations, made by the kernel and by a model that knows nothing of a kernel.
//!
//! ```text
//!   seed, number of the step ──▶ Model::choose ──▶ Step ──┬──▶ kernel::perform   in the guest  ┐
//!                                     ▲                   └──▶ Model::apply      there and here┘ equal?
//!                                     └─── files, descriptors, processes ◀──┘
//! ```
//!
//! Which step comes next follows from the seed, its number and the model alone. So whoever has the seed can say what the
//! guest did, what the kernel must have answered, and what is in each file at each step: no two writes write the same
//! bytes. Steps are made by processes and threads that begin, share or copy descriptors, and end; one at a time.
//!
//! After each step the program writes down what it was told, and what `fstat` and `lseek` say of each of its descriptors:
//! one block for each step, past the page cache, to a disk that has no other use. Whoever sees the requests of all disks
//! in their order knows between which steps each was made.

mod apply;
mod choose;
mod kernel;
mod model;
mod play;
mod record;
mod step;

pub use self::model::{Counts, File, Model, Name};
pub use self::play::play;
pub use self::record::{Record, result_in};
pub use self::step::{Begin, Copy, CopyForm, MapEnd, OpenCall, Step, SyncForm, Write};
