//! No sequence of register accesses breaks the transport: after any of them, a reset brings the device back.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use sky_devices::virtio::blk::{Blk, BlkSpec, NoClassifier};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use crate::driver::*;

#[derive(Clone, Debug)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    /// A step that a driver might take, so that the device gets somewhere.
    Step(u8),
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => prop::sample::select(vec![
            0x10_u64, 0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x60,
            0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xfc,
        ]),
        1 => 0..0x1100_u64,
        1 => any::<u64>(),
    ]
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => prop::sample::select(vec![
            0_u32, 1, 2, 3, 4, 8, 11, 15, 16, 64, 128, u32::MAX,
            RING_BASE, RING_BASE + 0x4000, RING_BASE + 0x8000,
        ]),
        1 => any::<u32>(),
    ]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        2 => (offset(), 0..16_usize).prop_map(|(offset, length)| Access::Read(offset, length)),
        6 => (offset(), value()).prop_map(|(offset, value)| Access::Write(offset, value.to_le_bytes().to_vec())),
        1 => (offset(), vec(any::<u8>(), 0..16)).prop_map(|(offset, bytes)| Access::Write(offset, bytes)),
        4 => (0..6_u8).prop_map(Access::Step),
    ]
}

fn step(driver: &mut Driver, step: u8) {
    match step {
        0 => driver.write32(0x70, 3),
        1 => driver.write_features(FEATURE_VERSION_1 | FEATURE_EVENT_IDX),
        2 => driver.write32(0x70, 11),
        3 => driver.configure_queue(0, QUEUE_SIZE),
        4 => driver.write32(0x70, 15),
        _ => driver.kick(0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_reset_brings_the_device_back(accesses in vec(access(), 0..120), noise in any::<u8>()) {
        let spec = BlkSpec { num_queues: 2, queue_size: QUEUE_SIZE, ..BlkSpec::default() };
        let mut driver = Driver::new(Blk::new(spec, numbered_disk(64, false), Arc::new(NoClassifier)).unwrap());
        // Rings that nobody initialised.
        let rings: Vec<u8> = (0..RING_REGION).map(|at| (at as u8).wrapping_mul(noise) ^ noise).collect();
        driver.memory.memory().write_slice(&rings, GuestAddress(RING_BASE.into())).unwrap();
        for access in accesses {
            match access {
                Access::Read(offset, length) => driver.transport.read(offset, &mut vec![0; length]),
                Access::Write(offset, bytes) => driver.transport.write(offset, &bytes),
                Access::Step(number) => step(&mut driver, number),
            }
        }
        driver.start(FEATURE_VERSION_1);
        for queue in 0..2 {
            prop_assert_eq!(driver.request_on(queue, GET_ID, 0, &[], 20, 4096).status, OK);
            prop_assert_eq!(driver.request_on(queue, OUT, 5, &[9; 512], 0, 100).status, OK);
            prop_assert_eq!(driver.request_on(queue, IN, 5, &[], 512, 100).output, vec![9; 512]);
        }
    }
}
