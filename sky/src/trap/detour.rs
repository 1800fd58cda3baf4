//! A second way into the system-call dispatcher, for monitored calls only: a copy of the guest's own entry path with
//! stops of ours at both ends, in the padding behind the guest's entry code.
//!
//! ```text
//!   enter:     out           where LSTAR points while a monitored process runs (engine `entry`)
//!   path:      swapgs ... push ... mov rdi, rsp
//!   dispatch:  call do_syscall_64
//!   returned:  out           RSP points at the saved registers
//! ```
//!
//! What a call enters here it returns to, because the dispatcher's return address lies on the thread's own stack:
//! whatever happens in between, on whatever CPU. The guest's shared path is never touched, so nobody else's call is
//! ever stopped and nothing has to be patched while the guest runs.
//!
//! The padding is the `int3` with which Linux fills the 2 MiB page of its entry code. That page is one of the few that
//! page-table isolation maps for user mode too; a kernel whose padding is not mapped there is refused.

use vm_memory::{Bytes, GuestAddress};

use crate::guest::{Gpa, Gva, View};
use crate::trap::sites::{Sites, Step};
use crate::{Error, Result};

const INT3: u8 = 0xcc;
const OUT_IMM8_AL: u8 = 0xe6;
const OUT_LENGTH: u64 = 2;
const CALL_REL32: u8 = 0xe8;
/// What the copy may take; it is about 110 bytes.
const ROOM: usize = 512;
/// How far behind LSTAR the padding may begin.
const REACH: u64 = 2 << 20;
const PAGE: u64 = 4096;
/// The bit by which page-table isolation tells the user's page directory from the kernel's (`PTI_USER_PGTABLE_BIT`).
const USER_DIRECTORY: u64 = 1 << 12;

/// The second way, and what was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detour {
    /// The stop before the path; for LSTAR.
    pub enter: Gva,
    /// The first instruction of the path, in the state in which SYSCALL leaves the CPU.
    pub path: Gva,
    /// The call of the dispatcher.
    pub dispatch: Gva,
    /// The stop behind it.
    pub returned: Gva,
    gpa: Gpa,
    bytes: Vec<u8>,
}

impl Detour {
    /// Plans a copy of the path to the dispatcher that stops by writes to I/O port `port`. Nothing is written yet.
    ///
    /// # Errors
    /// [`Error::Site`] when there is no room, or the path holds something that cannot be moved.
    pub fn plan(view: &View<'_>, sites: &Sites, port: u8) -> Result<Self> {
        let enter = room(view, sites.entered.at)?;
        let path = enter.offset(OUT_LENGTH);
        let mut bytes = vec![OUT_IMM8_AL, port];
        let mut dispatch = path;
        for step in &sites.entry_path {
            dispatch = enter.offset(bytes.len() as u64);
            bytes.extend(moved(step, dispatch)?);
        }
        if sites.entry_path.last().is_none_or(|step| step.bytes.first() != Some(&CALL_REL32)) {
            return Err(unfit("the dispatcher is not called directly"));
        }
        let returned = enter.offset(bytes.len() as u64);
        bytes.extend([OUT_IMM8_AL, port]);
        if bytes.len() > ROOM {
            return Err(unfit("the path to the dispatcher is too long"));
        }
        Ok(Self { enter, path, dispatch, returned, gpa: view.translate(enter)?.gpa, bytes })
    }

    /// Writes the copy.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn install(&self, view: &View<'_>) -> Result<()> {
        self.write(view, &self.bytes)
    }

    /// Makes it padding again. No thread may be on its way through it.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn remove(&self, view: &View<'_>) -> Result<()> {
        self.write(view, &vec![INT3; self.bytes.len()])
    }

    fn write(&self, view: &View<'_>, bytes: &[u8]) -> Result<()> {
        view.physical().write_slice(bytes, GuestAddress(self.gpa.0)).map_err(|_| Error::NotMapped(self.enter))
    }

    /// Padding on the same page that the copy does not use.
    #[must_use]
    pub fn behind(&self) -> Gva {
        self.enter.offset(ROOM as u64)
    }

    /// Whether a thread that stands at `rip` is inside.
    #[must_use]
    pub fn contains(&self, rip: u64) -> bool {
        (self.enter.0..=self.returned.0.saturating_add(OUT_LENGTH)).contains(&rip)
    }
}

fn unfit(reason: &str) -> Error {
    Error::Site { site: "a way round the system-call entry", reason: reason.to_owned() }
}

/// The bytes of `step` for another address.
fn moved(step: &Step, to: Gva) -> Result<Vec<u8>> {
    let mut bytes = step.bytes.clone();
    if let Some(at) = step.relative {
        let field = bytes.get_mut(at..at + 4).ok_or_else(|| unfit("a displacement is not 32 bits wide"))?;
        let old = field.try_into().map(i32::from_le_bytes).map_err(|_| unfit("a displacement is cut"))?;
        let distance = step.at.0.wrapping_sub(to.0).cast_signed();
        let new = i64::from(old).checked_add(distance).and_then(|new| i32::try_from(new).ok());
        field.copy_from_slice(&new.ok_or_else(|| unfit("a displacement does not reach"))?.to_le_bytes());
    }
    Ok(bytes)
}

/// Whether user mode has a page directory of its own, behind the kernel's. `view` is the kernel's.
///
/// Without page-table isolation the neighbour of the page directory is any page at all: it does not map LSTAR.
pub(crate) fn isolated(view: &View<'_>, lstar: Gva) -> bool {
    let user = view.of_directory(view.directory() | USER_DIRECTORY);
    view.directory() & USER_DIRECTORY == 0
        && user.translate(lstar).is_ok_and(|there| {
            there.executable && view.translate(lstar).is_ok_and(|here| here.gpa == there.gpa)
        })
}

/// The kernel's page directory, if `view` is that of user mode under page-table isolation; else `view` itself.
pub(crate) fn kernels_half<'a>(view: View<'a>, lstar: Gva) -> View<'a> {
    let kernels = view.of_directory(view.directory() & !USER_DIRECTORY);
    if view.directory() & USER_DIRECTORY != 0 && isolated(&kernels, lstar) { kernels } else { view }
}

/// A place of [`ROOM`] bytes of padding on one page, mapped for user mode too.
fn room(view: &View<'_>, lstar: Gva) -> Result<Gva> {
    let user = view.of_directory(view.directory() | USER_DIRECTORY);
    let isolated = isolated(view, lstar);
    let mut page = Gva(lstar.0 & !(PAGE - 1));
    let mut behind_code = false;
    let mut bytes = [0; 4096];
    while page.0.wrapping_sub(lstar.0) < REACH || page.0 <= lstar.0 {
        let usable = view.translate(page).is_ok_and(|here| {
            here.executable
                && (!isolated
                    || user.translate(page).is_ok_and(|there| there.executable && there.gpa == here.gpa))
        });
        if !usable {
            break;
        }
        view.read(page, &mut bytes)?;
        // A page that is padding from its first to its last byte: nobody's alignment, nobody's patch area.
        if bytes.iter().all(|&byte| byte == INT3) {
            // The second of them, away from the end of the code.
            if behind_code {
                return Ok(page);
            }
            behind_code = true;
        } else {
            behind_code = false;
        }
        page = page.offset(PAGE);
    }
    Err(unfit(if isolated {
        "no padding behind the entry code that user mode maps too"
    } else {
        "no padding behind the entry code"
    }))
}

#[cfg(test)]
mod tests;
