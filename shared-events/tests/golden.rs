//! The golden events: committed once, never changed, and decoded by every later version.
//!
//! A published payload can't be changed: the log may keep it for ever. So this test knows the hash of each golden
//! file, and fails if one changes.

use std::hash::Hasher as _;

use fnv::FnvHasher;
use shared_events::{Decoded, Event, decode, encode};

struct Golden {
    event_type: &'static str,
    json: &'static str,
    hash: u64,
}

macro_rules! golden {
    ($name:literal, $hash:literal) => {
        Golden {
            event_type: $name,
            json: include_str!(concat!("../golden/", $name, ".v1.json")),
            hash: $hash,
        }
    };
}

const GOLDEN: &[Golden] = &[
    golden!("ReservationPlaced", 0x4259_1a73_fb1c_73b6),
    golden!("ReservationConfirmed", 0xbdd8_8b40_78da_991e),
    golden!("ReservationCancelled", 0x12c0_da6f_42cf_d472),
    golden!("MoviePublished", 0xf1cb_5de6_42b7_b913),
    golden!("MovieUpdated", 0x9706_0962_dfae_7d79),
    golden!("TicketsAdded", 0x063b_324d_9569_992f),
    golden!("TicketsAllocated", 0x55b3_004a_2c27_fb2d),
    golden!("AllocationRejected", 0x9dd4_4657_1e80_e9b3),
    golden!("TicketsReleased", 0xba3c_acfe_bdce_c69a),
];

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

#[test]
fn every_event_has_a_golden_file() {
    let golden: Vec<_> = GOLDEN.iter().map(|golden| golden.event_type).collect();
    assert_eq!(golden, Event::TYPES);
}

#[test]
fn golden_files_never_change() {
    for golden in GOLDEN {
        assert_eq!(
            hash(golden.json.as_bytes()),
            golden.hash,
            "{} was published as it stood: add a new version beside it instead",
            golden.event_type
        );
    }
}

#[test]
fn golden_files_are_decoded_and_encoded_unchanged() {
    for golden in GOLDEN {
        let decoded = decode(Some(golden.json.as_bytes()));
        let Ok(Decoded::Event(event)) = decoded else { panic!("{}: {decoded:?}", golden.event_type) };
        assert_eq!(event.event_type(), golden.event_type);
        let written: serde_json::Value = serde_json::from_slice(&encode(&event)).unwrap();
        let committed: serde_json::Value = serde_json::from_str(golden.json).unwrap();
        assert_eq!(written, committed);
    }
}
