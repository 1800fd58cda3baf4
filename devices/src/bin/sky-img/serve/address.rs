//! Where an NBD server listens, as users write it and as clients are told.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The address of an NBD server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NbdAddress {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A host name or address without brackets, and a port that is not zero.
    Tcp { host: String, port: u16 },
}

impl FromStr for NbdAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("the path of the socket is missing".into()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or("neither unix:PATH nor ADDRESS:PORT")?;
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']').ok_or("a bracket is missing")?,
            None if host.contains(':') => {
                return Err("an IPv6 address stands in brackets: [::1]:10809".into());
            }
            None => host,
        };
        if host.is_empty() {
            return Err("the address is missing: 0.0.0.0 and [::] are all of this host's".into());
        }
        match port.parse() {
            Ok(0) | Err(_) => Err(format!("{port:?} is no port between 1 and 65535")),
            Ok(port) => Ok(Self::Tcp { host: host.into(), port }),
        }
    }
}

/// An address as clients know it: the NBD URI of an export.
#[derive(Debug)]
pub(super) struct Uri<'a> {
    pub(super) address: &'a NbdAddress,
    /// Clients must use TLS.
    pub(super) tls: bool,
    pub(super) export: &'a str,
}

impl fmt::Display for Uri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        let export = Escaped(self.export.as_bytes());
        match self.address {
            NbdAddress::Unix(path) => {
                write!(f, "{scheme}+unix:///{export}?socket={}", Escaped(path_bytes(path)))
            }
            NbdAddress::Tcp { host, port } if host.contains(':') => {
                write!(f, "{scheme}://[{host}]:{port}/{export}")
            }
            NbdAddress::Tcp { host, port } => write!(f, "{scheme}://{host}:{port}/{export}"),
        }
    }
}

fn path_bytes(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes()
}

/// Bytes with everything escaped that means something in a URI.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    write!(f, "{}", char::from(byte))?;
                }
                byte => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str, tls: bool, export: &str) -> String {
        Uri { address: &text.parse().unwrap(), tls, export }.to_string()
    }

    #[test]
    fn addresses_become_uris() {
        assert_eq!(uri("unix:/tmp/a.sock", false, ""), "nbd+unix:///?socket=/tmp/a.sock");
        assert_eq!(uri("unix:/tmp/a b", true, "x&y"), "nbds+unix:///x%26y?socket=/tmp/a%20b");
        assert_eq!(uri("127.0.0.1:10809", false, "disk"), "nbd://127.0.0.1:10809/disk");
        assert_eq!(uri("[::1]:1", true, ""), "nbds://[::1]:1/");
        assert_eq!(uri("localhost:65535", false, ""), "nbd://localhost:65535/");
    }

    #[test]
    fn mistakes_are_told() {
        for wrong in
            ["", "unix:", "/tmp/a.sock", "localhost", ":1", "host:0", "host:65536", "::1:80", "[::1:80"]
        {
            assert!(wrong.parse::<NbdAddress>().is_err(), "{wrong}");
        }
    }
}
