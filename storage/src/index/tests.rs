//! An index whose bytes lie although every checksum is right: still no panic, and no memory beyond its size.

use super::*;
use crate::disk::Disk;
use model::{
    env::{Fs as _, Mapped},
    label::Labels,
    matcher::{MatchOp, Matcher},
    time::TimeRange,
};
use proptest::prelude::*;
use std::ops::Range;

/// A small index with several names, values and chunks.
fn small_index() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let mut symbols: Vec<String> = (0..70).map(|value| format!("v{value:02}")).collect();
    symbols.extend(["__name__", "job", "up", "zone"].map(str::to_owned));
    symbols.sort();
    let mut writer = IndexWriter::create(&Disk, &path, &symbols).unwrap();
    for series in 0..70u64 {
        let value = format!("v{series:02}");
        let mut pairs = vec![("__name__", "up"), ("job", &value)];
        if series % 2 == 0 {
            pairs.push(("zone", "v00"));
        }
        let chunk = |number: u64| ChunkRef {
            min_time: number as i64 * 100,
            max_time: number as i64 * 100 + 50,
            reference: series * 1000 + number * 100,
        };
        writer
            .add_series(&Labels::new(pairs).unwrap(), &[chunk(0), chunk(1), chunk(2)])
            .unwrap();
    }
    let stats = writer.finish().unwrap();
    let bytes = Disk.read(&path).unwrap();
    assert_eq!((stats.series, stats.size), (70, bytes.len() as u64));
    bytes
}

/// Asks an index everything there is to ask.
fn exercise(bytes: Vec<u8>) {
    let size = bytes.len();
    let Ok(index) = Index::open(Mapped::new(bytes)) else {
        return;
    };
    let matchers = [
        Matcher::equal("job", "v07"),
        Matcher::new(MatchOp::Regex, "job", "v1.*").unwrap(),
        Matcher::new(MatchOp::NotRegex, "zone", ".+").unwrap(),
        Matcher::not_equal("zone", "v00"),
    ];
    assert!(index.symbols().count() <= size);
    for name in index.label_names() {
        assert!(index.label_values(name).count() <= size);
    }
    for matcher in &matchers {
        let matchers = std::slice::from_ref(matcher);
        if let Ok(matching) = index.matching(matchers) {
            assert!(matching.ids.len() <= size);
        }
        let _ = index.matching_exactly(matchers);
        let _ = index.names_matching(matchers);
        let _ = index.values_matching("zone", matchers);
        let _ = index.values_matching("job", matchers);
    }
    if let Ok(mut scan) = Scan::new(&index, &[], TimeRange::ALL, false) {
        while scan.next_batch(&index, 10).is_ok_and(|found| !found.is_empty()) {}
    }
}

/// The checksummed parts of the index: content, and where the checksum is.
fn checksummed(bytes: &[u8]) -> Vec<(Range<usize>, usize)> {
    let toc = Toc::read(bytes).unwrap();
    let be32 = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let section = |at: u64| {
        let start = at as usize + 4;
        let end = start + be32(at as usize);
        (start..end, end)
    };
    let mut parts = vec![section(toc.symbols), section(toc.postings_table)];
    let mut at = toc.postings;
    while at + 8 < toc.postings_table {
        let list = section(at);
        at = (list.1 as u64 + 4).next_multiple_of(4);
        parts.push(list);
    }
    let mut at = toc.series as usize;
    while at < toc.postings as usize && bytes[at] != 0 {
        let len = usize::from(bytes[at]);
        assert!(len < 0x80, "the series of this index are short");
        parts.push((at + 1..at + 1 + len, at + 1 + len));
        at = (at + 1 + len + 4).next_multiple_of(16);
    }
    let toc_start = bytes.len() - TOC_BYTES;
    parts.push((toc_start..bytes.len() - 4, bytes.len() - 4));
    parts
}

#[test]
fn what_is_written_is_read() {
    let bytes = small_index();
    let index = Index::open(Mapped::new(bytes)).unwrap();
    assert_eq!(index.series_count(), 70);
    assert_eq!(index.label_names().collect::<Vec<_>>(), ["__name__", "job", "zone"]);
    assert_eq!(index.label_values("job").count(), 70);
    assert_eq!(index.symbols().count(), 74);
    let mut scan = Scan::new(&index, &[Matcher::equal("job", "v68")], TimeRange::new(60, 120), false).unwrap();
    let found = scan.next_batch(&index, 10).unwrap().remove(0);
    assert_eq!(found.labels.to_string(), r#"{__name__="up", job="v68", zone="v00"}"#);
    assert_eq!(
        found.chunks.iter().map(|chunk| chunk.reference).collect::<Vec<_>>(),
        [68_100]
    );
    assert_eq!(found.behind.map(|chunk| chunk.reference), Some(68_200));
    let mut scan = Scan::new(&index, &[Matcher::equal("job", "v68")], TimeRange::ALL, false).unwrap();
    let found = scan.next_batch(&index, 10).unwrap().remove(0);
    assert_eq!(
        found.behind.map(|chunk| chunk.reference),
        Some(69_000),
        "the next series' first chunk"
    );
}

#[test]
fn other_files_are_refused_by_name() {
    let mut bytes = small_index();
    bytes[4] = 3;
    assert_eq!(
        Index::open(Mapped::new(bytes.clone())).err(),
        Some(IndexError::Version(3))
    );
    bytes[0] = 0;
    assert!(matches!(
        Index::open(Mapped::new(bytes)).err(),
        Some(IndexError::Magic(_))
    ));
    assert!(Index::open(Mapped::new(Vec::new())).is_err());
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = small_index();
    for end in 0..bytes.len() {
        assert!(Index::open(Mapped::new(bytes[..end].to_vec())).is_err(), "cut at {end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn lies_with_right_checksums_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = small_index();
        let parts = checksummed(&bytes);
        for (part, place, value) in changes {
            let (content, sum) = part.get(&parts).clone();
            bytes[content.start + place.index(content.len())] = value;
            let crc = crc32c::crc32c(&bytes[content]).to_be_bytes();
            bytes[sum..sum + 4].copy_from_slice(&crc);
        }
        exercise(bytes);
    }
}
