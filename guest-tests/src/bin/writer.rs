//! placeholder until the lab runs
fn main() {}
