//! stub until the decoder is merged
/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawCall {
    /// n
    pub number: u64,
    /// a
    pub args: [u64; 6],
}
impl RawCall {
    /// returns
    #[must_use]
    pub fn returns(&self) -> bool {
        self.number != 60 && self.number != 231
    }
    /// name
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        usize::try_from(self.number).ok().and_then(syscalls::Sysno::new).map(|s| s.name())
    }
}
/// O
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// v
    Returned(i64),
    /// r
    Restarts,
    /// u
    Unknown,
}
