//! Images of disks: which file, in which format, over which others.
//!
//! ```text
//!   ImageSpec ──open──▶ Image ──▶ backing Image ──▶ ...
//!                         │
//!                         └─ Raw | Qcow2 (read only) | Selfie
//! ```
//!
//! A format is always named and never guessed: a guest that may write every byte of a raw image could otherwise turn it
//! into an image of another format, one that names a file of the host as its backing image. For the same reason the
//! backing images that an image names are opened only where [`ImageSpec::backing`] asks for it.

mod chain;
mod compare;
mod copy;
mod extent;
mod format;
mod new;
mod open;
mod overlay;
mod pieces;
mod qcow2;
mod rebase;
mod salvage;
mod selfie;
mod size;
mod work;

pub use compare::{Comparison, compare};
pub use copy::{Copied, CopyOptions, copy};
pub use extent::Located;
pub use format::{Format, UnknownFormat};
pub use new::{NewImage, NewImageOptions};
pub(crate) use open::modified;
pub use open::{BackingPolicy, Image, ImageSpec};
pub use overlay::{Parent, commit, reattach};
pub use qcow2::{NamedBacking, Qcow2Source};
pub use rebase::rebase;
pub use salvage::{Salvaged, salvage};
pub use size::{NotASize, format_size, parse_size};
pub use work::Work;

pub use crate::selfie::{Extent, ExtentKind};
