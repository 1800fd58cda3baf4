//! The vhost-user backend from the frontend's side: the library's own frontend sets it up, a small driver sends requests.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![allow(clippy::cast_possible_truncation, reason = "test patterns want the low bits, sizes here are small")]

mod frontend;
mod requests;
