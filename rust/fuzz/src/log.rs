//! A record of the log, then the same bytes as the inside of a frame, then as a whole frame.
//!
//! The log is our own, but it outlives a version of this program and lies on disks. What reads back is written back as
//! the same; a frame that opens becomes rows or an error.

use sendora_core::people::ProfileBatch;
use sendora_core::record::{self, Records};
use sendora_core::store::EventBatch;

use super::rows;

const EVENT_COLUMNS: usize = 13;
const PROFILE_COLUMNS: usize = 14;

pub fn run(data: &[u8]) {
    if let Ok((tenant, record)) = record::read(data) {
        let mut written = Vec::new();
        record::write(&mut written, tenant, &record);
        let mut records = Records(&written);
        let again = records.next().and_then(Result::ok).expect("our own record");
        assert_eq!(record::read(again), Ok((tenant, record)), "a record is written as it was read");
        assert!(records.next().is_none());
    }
    if let Ok(frame) = record::frame(std::iter::once(data)) {
        assert!(record::open(&frame).is_ok(), "a frame that was made opens");
        batches(&frame);
    }
    batches(data);
    // The checksum keeps chance out, and a fuzzer with it.
    let mut sealed = [b"SNDR\x01", data].concat();
    sealed.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
    batches(&sealed);
}

fn batches(frame: &[u8]) {
    let Ok(opened) = record::open(frame) else { return };
    assert!(opened.records.clone().all(|record| record.is_ok()), "an opened frame has whole records");
    if let Ok(batch) = EventBatch::new(std::iter::once(frame)) {
        let copy = batch.copy(&[], 0, batch.len()).expect("what was read once reads again");
        assert_eq!(rows(&copy, EVENT_COLUMNS), batch.len());
        assert_eq!(batch.keys().len(), 32 * batch.len());
        assert!(batch.months().is_sorted());
        let stored: i64 = batch.counts(&[], &[]).iter().map(|(_, counts)| counts.stored).sum();
        assert_eq!(stored, batch.len() as i64, "every event is somebody's");
    }
    if let Ok(batch) = ProfileBatch::new(std::iter::once(frame)) {
        assert_eq!(rows(&batch.copy(), PROFILE_COLUMNS), batch.len());
    }
}
