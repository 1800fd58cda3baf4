//! One thread per port, and the decision to switch off when nobody has asked for anything in a while.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use guest_programs::protocol::{Decoder, Frame, VERSION};

use crate::port::Port;
use crate::run::{self, Ending};
use crate::{setup, sys};

/// How often the main thread looks around.
const TICK: Duration = Duration::from_secs(2);
/// A kernel that hangs this long is switched off by the watchdog. Generous: the host may be very busy.
const WATCHDOG_SECONDS: libc::c_int = 240;
/// The rest of a frame comes at once; what stays in pieces for this long was left by a host that died.
const PARTIAL: Duration = Duration::from_secs(3);
/// A port whose host is away can only be polled.
const HOST_AWAY: Duration = Duration::from_millis(50);

struct Activity {
    running: usize,
    last: Instant,
}

static ACTIVITY: Mutex<Option<Activity>> = Mutex::new(None);

/// Serves every port until the lab is idle for too long; then the machine is switched off.
pub(crate) fn serve_all() -> io::Result<()> {
    let settings = setup::configuration()?;
    let slots: usize = setup::setting(&settings, "slots")?.parse().map_err(io::Error::other)?;
    let idle: u64 = setup::setting(&settings, "idle")?.parse().map_err(io::Error::other)?;
    let mut watchdog = File::options().write(true).open("/dev/watchdog").ok();
    if let Some(device) = &watchdog {
        sys::set_watchdog(device, WATCHDOG_SECONDS)?;
    }
    touch(0);
    for slot in 0..slots {
        let port = Port::open(&format!("sky.slot{slot}"))?;
        thread::spawn(move || {
            if let Err(error) = serve(slot, &port) {
                eprintln!("lab-agent: slot {slot}: {error}");
                std::process::exit(1);
            }
        });
    }
    println!("lab-agent: ready");
    loop {
        thread::sleep(TICK);
        if let Some(device) = &mut watchdog {
            device.write_all(b"\0")?;
        }
        let is_idle = activity().as_ref().is_some_and(|activity| {
            activity.running == 0 && activity.last.elapsed() > Duration::from_secs(idle)
        });
        if is_idle {
            println!("lab-agent: switching off after {idle} idle seconds");
            sys::power_off();
        }
    }
}

fn activity() -> MutexGuard<'static, Option<Activity>> {
    ACTIVITY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody is here: counts a command that starts (1) or ends (-1), or a mere greeting (0).
fn touch(change: isize) {
    let mut activity = activity();
    let running = activity.as_ref().map_or(0, |activity| activity.running);
    *activity = Some(Activity { running: running.saturating_add_signed(change), last: Instant::now() });
}

fn serve(slot: usize, port: &Port) -> io::Result<()> {
    let mut decoder = Decoder::default();
    loop {
        let mut fds = [sys::interest(Some(port.fd()), libc::POLLIN)];
        if !sys::poll(&mut fds, PARTIAL)? {
            decoder.clear();
        } else if fds[0].revents & libc::POLLIN == 0 || !port.receive(&mut decoder)? {
            decoder.clear();
            thread::sleep(HOST_AWAY);
        }
        while let Some(frame) = next(&mut decoder) {
            // A host that has gone away in the middle is noticed by the next poll.
            let _ = answer(slot, port, &mut decoder, frame);
        }
    }
}

fn next(decoder: &mut Decoder) -> Option<Frame> {
    decoder.pop().unwrap_or_else(|_| {
        decoder.clear();
        None
    })
}

fn answer(slot: usize, port: &Port, decoder: &mut Decoder, frame: Frame) -> io::Result<()> {
    match frame {
        Frame::Hello(nonce) => {
            touch(0);
            port.send(&Frame::Ready(nonce, VERSION))
        }
        Frame::Run(request) => {
            touch(1);
            let ending = run::run(slot, port, decoder, &request);
            touch(-1);
            match ending {
                Ok(Ending::Exited(exit)) => port.send(&Frame::Exit(exit)),
                Ok(Ending::Greeted(nonce)) => port.send(&Frame::Ready(nonce, VERSION)),
                Ok(Ending::HostGone) => Ok(()),
                Err(error) => port.send(&Frame::Failed(error.to_string())),
            }
        }
        Frame::PowerOff => {
            println!("lab-agent: told to switch off");
            sys::power_off();
            Ok(())
        }
        // Input that came after its command had ended.
        _ => Ok(()),
    }
}
