//! Serving NBD: nbdkit as a child process, which gets our signals and lives no longer than we do.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use sky_devices::block::Cache;
use sky_devices::image::{BackingPolicy, ImageSpec};
use sky_devices::layers::LayerKeys;

use super::address::{NbdAddress, Uri};
use super::socket::SocketName;
use super::{Error, Serve, plugin};
use crate::output::Output;

/// Clients learn that requests must be whole sectors, had better be whole 4 KiB blocks, and may not be longer than
/// 32 MiB, which bounds the memory of a request. nbdkit refuses what is not so.
const BLOCK_SIZES: [&str; 4] = [
    "blocksize-minimum=512",
    "blocksize-preferred=4096",
    "blocksize-maximum=32M",
    "blocksize-error-policy=error",
];

/// What a client says that only came to look: its flags (fixed newstyle), and the option NBD_OPT_ABORT.
const GOODBYE: [u8; 20] = *b"\0\0\0\x01IHAVEOPT\0\0\0\x02\0\0\0\0";

/// Time between two looks whether nbdkit is there yet.
const POLL: Duration = Duration::from_millis(20);

/// Runs nbdkit until it ends, which signals make it do.
///
/// # Errors
/// nbdkit or the plugin is missing, or nbdkit failed: it has said why on standard error.
pub(super) fn run(
    serve: &Serve,
    spec: &ImageSpec,
    layers: &LayerKeys,
    address: &NbdAddress,
    output: Output,
) -> Result<(), Error> {
    let nbdkit = plugin::find_nbdkit()?;
    let plugin = plugin::find_plugin(serve.plugin.as_deref())?;
    let (address, socket) = match address {
        NbdAddress::Unix(path) => {
            let socket = SocketName::claim(path)?;
            (NbdAddress::Unix(socket.path().to_owned()), Some(socket))
        }
        tcp @ NbdAddress::Tcp { .. } => (tcp.clone(), None),
    };
    // From here on signals wait until the child is there to get them.
    let mut signals =
        Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(Error::io("signals"))?;
    let mut child = Command::new(&nbdkit)
        .args(arguments(serve, spec, layers, &address, plugin.into()))
        .stdin(Stdio::null())
        .spawn()
        .map_err(Error::io(nbdkit.display().to_string()))?;
    announce_when_ready(serve, &address, output);
    let status = wait(&mut child, &mut signals)?;
    drop(socket);
    if status.success() { Ok(()) } else { Err(Error::Ended(status)) }
}

/// Requests of one client that are served at a time. nbdkit would have 16, which on few processors get in each other's
/// way: on two, sequential reads of a raw image were slower than with 8, and random ones were, too.
fn threads() -> usize {
    thread::available_parallelism().map_or(4, |processors| processors.get().saturating_mul(4)).clamp(4, 16)
}

/// nbdkit's command line.
fn arguments(
    serve: &Serve,
    spec: &ImageSpec,
    layers: &LayerKeys,
    address: &NbdAddress,
    plugin: OsString,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["--foreground", "--exit-with-parent"].map(Into::into).into();
    arguments.push(format!("--threads={}", threads()).into());
    match address {
        NbdAddress::Unix(path) => arguments.extend(["--unix".into(), path.into()]),
        NbdAddress::Tcp { host, port } => {
            arguments.extend(["--ipaddr".into(), host.into(), "--port".into(), port.to_string().into()]);
        }
    }
    if spec.read_only {
        arguments.push("--readonly".into());
    }
    arguments.push("--filter=blocksize-policy".into());
    if serve.export.is_some() {
        arguments.push("--filter=exportname".into());
    }
    arguments.push(plugin);
    let mut file = OsString::from("file=");
    file.push(&spec.path);
    arguments.push(file);
    arguments.push(format!("format={}", spec.format).into());
    arguments.push(format!("readonly={}", spec.read_only).into());
    arguments.push(format!("backing={}", spec.backing == BackingPolicy::Open).into());
    if let Some(cache) = spec.cache {
        arguments.push(format!("direct={}", cache == Cache::Direct).into());
    }
    for (key, value) in layers.pairs() {
        let mut argument = OsString::from(format!("{key}="));
        argument.push(value);
        arguments.push(argument);
    }
    arguments.push(format!("grace={}", serve.grace).into());
    arguments.extend(BLOCK_SIZES.map(Into::into));
    if let Some(export) = &serve.export {
        arguments.extend(["exportname-strict=true", "exportname-list=explicit"].map(Into::into));
        arguments.push(format!("exportname={export}").into());
    }
    // nbdkit sorts options from parameters itself.
    arguments.extend(serve.nbdkit.iter().cloned());
    arguments
}

/// Prints the URI once nbdkit greets clients, which it does when the image is open. If it never does, it ends.
fn announce_when_ready(serve: &Serve, address: &NbdAddress, output: Output) {
    let tls = serve.nbdkit.iter().any(|argument| argument == "--tls=require");
    let uri = Uri { address, tls, export: serve.export.as_deref().unwrap_or_default() }.to_string();
    let address = address.clone();
    // The thread ends with the process at the latest.
    thread::spawn(move || {
        while !greets(&address) {
            thread::sleep(POLL);
        }
        output.print(&json!({ "uri": uri }), || uri.clone());
    });
}

/// Whether an NBD server is there.
fn greets(address: &NbdAddress) -> bool {
    let met = match address {
        NbdAddress::Unix(path) => UnixStream::connect(path).map(say_goodbye),
        NbdAddress::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).map(say_goodbye),
    };
    // A filter may hang up on us and not on others: the server is there all the same.
    met.is_ok()
}

/// Waits for the greeting and leaves as the protocol says, so that the server has nothing to complain of.
fn say_goodbye(mut stream: impl Read + Write) {
    let mut greeting = [0; 18];
    let mut answer = [0; 20];
    let _ = stream
        .read_exact(&mut greeting)
        .and_then(|()| stream.write_all(&GOODBYE))
        .and_then(|()| stream.read_exact(&mut answer));
}

/// Passes signals on to the child until it has ended.
fn wait(child: &mut Child, signals: &mut Signals) -> Result<std::process::ExitStatus, Error> {
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io("nbdkit"))? {
            return Ok(status);
        }
        for signal in signals.wait() {
            // Until it is waited for above, the number is the child's and nobody else's.
            if signal != SIGCHLD
                && let (Some(pid), Some(signal)) =
                    (i32::try_from(child.id()).ok().and_then(Pid::from_raw), Signal::from_named_raw(signal))
                && let Err(error) = kill_process(pid, signal)
            {
                eprintln!("sky-img: nbdkit does not get a signal: {error}");
            }
        }
    }
}
