//! What the host and the lab's agent say to each other over a virtio serial port.
//!
//! A frame is a magic number, a kind, a length and a payload. Neither side trusts the other's numbers: a frame that
//! is too long or of an unknown kind is an error, and after an error the reader starts afresh.
//!
//! A port outlives its users, so a new one may find the remains of the last one's talk. Every conversation
//! therefore begins with `Hello` and a number that nobody used before; the host skips everything until the answer
//! carries that number, and the agent drops everything when it sees a `Hello`.

/// Both sides must speak the same; the agent is built from the same sources, but a lab may be running already.
pub const VERSION: u32 = 1;
/// The largest payload. A command's environment is one frame and may be large.
pub const MAX_PAYLOAD: usize = 4 << 20;
/// The largest piece of a stream sent at once.
pub const PIECE: usize = 32 << 10;

const MAGIC: [u8; 4] = *b"sky\x01";
const HEADER: usize = 12;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A command to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The program and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, `NAME=VALUE` each.
    pub env: Vec<Vec<u8>>,
    /// Where to run.
    pub cwd: Vec<u8>,
    /// Whether standard input follows in frames; else it is empty.
    pub stdin: bool,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Host: a new conversation begins.
    Hello(u64),
    /// Agent: the answer, with the agent's version.
    Ready(u64, u32),
    /// Host: run this.
    Run(Request),
    /// Host: standard input; nothing means its end.
    Stdin(Vec<u8>),
    /// Agent: standard output.
    Stdout(Vec<u8>),
    /// Agent: standard error.
    Stderr(Vec<u8>),
    /// Agent: still there. Sent now and then while a command runs.
    Alive,
    /// Agent: the command ended.
    Exit(Exit),
    /// Agent: the command could not be run.
    Failed(String),
    /// Host: switch the lab off.
    PowerOff,
}

/// What arrived is no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other side sent what is no frame: {0}")]
pub struct Malformed(&'static str);

impl Frame {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload): (u32, Vec<u8>) = match self {
            Frame::Hello(nonce) => (1, nonce.to_le_bytes().to_vec()),
            Frame::Ready(nonce, version) => (2, [&nonce.to_le_bytes()[..], &version.to_le_bytes()].concat()),
            Frame::Run(request) => (3, request.encode()),
            Frame::Stdin(bytes) => (4, bytes.clone()),
            Frame::Stdout(bytes) => (5, bytes.clone()),
            Frame::Stderr(bytes) => (6, bytes.clone()),
            Frame::Alive => (7, Vec::new()),
            Frame::Exit(Exit::Code(code)) => (8, code.to_le_bytes().to_vec()),
            Frame::Exit(Exit::Signal(signal)) => (9, signal.to_le_bytes().to_vec()),
            Frame::Failed(why) => (10, why.clone().into_bytes()),
            Frame::PowerOff => (11, Vec::new()),
        };
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&length(&payload).to_le_bytes());
        bytes.extend_from_slice(&payload);
        bytes
    }

    fn decode(kind: u32, payload: &[u8]) -> Result<Frame, Malformed> {
        let mut fields = Fields(payload);
        let frame = match kind {
            1 => Frame::Hello(fields.u64()?),
            2 => Frame::Ready(fields.u64()?, fields.u32()?),
            3 => Frame::Run(Request::decode(&mut fields)?),
            4 => Frame::Stdin(fields.rest()),
            5 => Frame::Stdout(fields.rest()),
            6 => Frame::Stderr(fields.rest()),
            7 => Frame::Alive,
            8 => Frame::Exit(Exit::Code(fields.u32()?.cast_signed())),
            9 => Frame::Exit(Exit::Signal(fields.u32()?.cast_signed())),
            10 => Frame::Failed(String::from_utf8_lossy(&fields.rest()).into_owned()),
            11 => Frame::PowerOff,
            _ => return Err(Malformed("unknown kind")),
        };
        if fields.0.is_empty() {
            Ok(frame)
        } else {
            Err(Malformed("a payload that is too long for its kind"))
        }
    }
}

impl Request {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.stdin)];
        let mut put = |item: &[u8]| {
            bytes.extend_from_slice(&length(item).to_le_bytes());
            bytes.extend_from_slice(item);
        };
        put(&self.cwd);
        for list in [&self.argv, &self.env] {
            put(&u32::try_from(list.len()).unwrap_or(u32::MAX).to_le_bytes());
            list.iter().for_each(|item| put(item));
        }
        bytes
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Request, Malformed> {
        let stdin = fields.take(1)? == [1];
        let cwd = fields.item()?.to_vec();
        Ok(Request { stdin, cwd, argv: fields.list()?, env: fields.list()? })
    }
}

/// Lengths are 32 bits wide; senders keep far below `MAX_PAYLOAD`, and a receiver refuses what does not.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Reads fields off the front, never past the end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed("a field that ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed("a field that ends too early"))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn item(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed("a field that ends too early"))?;
        self.take(length)
    }

    fn list(&mut self) -> Result<Vec<Vec<u8>>, Malformed> {
        let count = Fields(self.item()?).u32()?;
        // The count is the other side's word: let the items run out rather than reserve for it.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.item()?.to_vec());
        }
        Ok(items)
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }
}

/// Collects bytes and gives out the frames in them.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete frame, if there is one.
    pub fn pop(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let mut fields = Fields(header);
        if fields.array::<4>()? != MAGIC {
            return Err(Malformed("wrong magic number"));
        }
        let kind = fields.u32()?;
        let length = usize::try_from(fields.u32()?).map_err(|_| Malformed("too long"))?;
        if length > MAX_PAYLOAD {
            return Err(Malformed("too long"));
        }
        let Some(payload) = self.bytes.get(HEADER..HEADER + length) else { return Ok(None) };
        let frame = Frame::decode(kind, payload);
        self.bytes.drain(..HEADER + length);
        frame.map(Some)
    }

    /// Whether a frame has begun and not ended.
    pub fn is_partial(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Drops everything up to the agent's answer to `Hello(nonce)` and that answer itself; gives its version.
    pub fn skip_to_ready(&mut self, nonce: u64) -> Option<u32> {
        let ready = Frame::Ready(nonce, 0).encode();
        let start = &ready[..ready.len() - 4];
        let at = self.bytes.windows(start.len()).position(|window| window == start)?;
        let version = self.bytes.get(at + start.len()..)?.first_chunk::<4>().copied()?;
        self.bytes.drain(..at + ready.len());
        Some(u32::from_le_bytes(version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Frame> {
        let request = Request {
            argv: vec![b"sh".to_vec(), b"-c".to_vec(), vec![]],
            env: vec![b"A=1".to_vec()],
            cwd: b"/".to_vec(),
            stdin: true,
        };
        vec![
            Frame::Hello(u64::MAX),
            Frame::Ready(7, VERSION),
            Frame::Run(request),
            Frame::Stdin(vec![]),
            Frame::Stdout(vec![0; 1000]),
            Frame::Stderr(b"oh".to_vec()),
            Frame::Alive,
            Frame::Exit(Exit::Code(-1)),
            Frame::Exit(Exit::Signal(9)),
            Frame::Failed("no".into()),
            Frame::PowerOff,
        ]
    }

    #[test]
    fn frames_survive_the_way_in_any_pieces() {
        let stream: Vec<u8> = samples().iter().flat_map(Frame::encode).collect();
        for piece in [1, 7, 4096] {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.push(bytes);
                while let Some(frame) = decoder.pop().unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, samples());
            assert!(!decoder.is_partial());
        }
    }

    #[test]
    fn every_truncated_or_stretched_payload_is_refused() {
        for frame in samples() {
            let whole = frame.encode();
            let payload = &whole[HEADER..];
            let kind = u32::from_le_bytes(whole[4..8].try_into().unwrap());
            let free_form =
                matches!(frame, Frame::Stdin(_) | Frame::Stdout(_) | Frame::Stderr(_) | Frame::Failed(_));
            if !free_form {
                for length in 0..payload.len() {
                    assert!(Frame::decode(kind, &payload[..length]).is_err(), "{frame:?} cut to {length}");
                }
                assert!(Frame::decode(kind, &[payload, b"x"].concat()).is_err(), "{frame:?} stretched");
            }
        }
    }

    #[test]
    fn lies_about_lengths_and_counts_are_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[&MAGIC[..], &3u32.to_le_bytes(), &u32::MAX.to_le_bytes()].concat());
        assert!(decoder.pop().is_err());
        // A list that claims four thousand million items in a payload of a few bytes.
        let payload =
            [&[0u8][..], &0u32.to_le_bytes(), &4u32.to_le_bytes(), &u32::MAX.to_le_bytes()].concat();
        assert!(Frame::decode(3, &payload).is_err());
        assert!(Frame::decode(99, &[]).is_err());
    }

    #[test]
    fn remains_of_another_conversation_are_skipped() {
        let mut decoder = Decoder::default();
        decoder.push(&Frame::Stdout(b"old".to_vec()).encode()[3..]);
        decoder.push(&Frame::Ready(1, VERSION).encode());
        assert_eq!(decoder.skip_to_ready(2), None);
        decoder.push(&Frame::Ready(2, VERSION).encode()[..20]);
        assert_eq!(decoder.skip_to_ready(2), None);
        decoder.push(&Frame::Ready(2, VERSION).encode()[20..]);
        decoder.push(&Frame::Alive.encode());
        assert_eq!(decoder.skip_to_ready(2), Some(VERSION));
        assert_eq!(decoder.pop().unwrap(), Some(Frame::Alive));
    }
}
