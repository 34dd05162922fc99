//! A crowd in which many people want a few drives and few want the others. It needs no list in
//! memory.
//!
//! Each person has a number. The people of the first drive have the first numbers, then those of
//! the second, and so on. So files that are ordered by number can be read drive by drive. People
//! click in another order, which mixes all drives.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

/// The step from one click's number to the next. It is a prime larger than any crowd, so each
/// person clicks once. It is near the golden section of 2³², so successive clicks are far apart.
const STRIDE: u64 = 2_654_435_761;

/// A crowd.
#[derive(Debug, Clone)]
pub(super) struct Crowd {
    /// The first number of each drive's people, and the end of the last.
    starts: Vec<u32>,
}

impl Crowd {
    /// A crowd of `members` on `drives`. Demand for the n-th drive is in proportion to 1/n (Zipf's
    /// law).
    pub(super) fn new(members: u32, drives: u32) -> anyhow::Result<Self> {
        let whole: f64 = (1..=drives).map(|rank| 1.0 / f64::from(rank)).sum();
        let (mut starts, mut sum) = (vec![0], 0.0);
        for rank in 1..=drives {
            sum += 1.0 / f64::from(rank);
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of the members is at most all of them"
            )]
            starts.push((f64::from(members) * sum / whole).round() as u32);
        }
        let crowd = Self { starts };
        let least = (0..drives as usize).map(|drive| crowd.people(drive).len()).min();
        ensure!(least.is_some_and(|least| least > 0), "too few members: a drive would have none");
        Ok(crowd)
    }

    pub(super) fn members(&self) -> u32 {
        self.starts.last().copied().unwrap_or_default()
    }

    /// The numbers of the people who want a drive.
    pub(super) fn people(&self, drive: usize) -> Range<u32> {
        self.starts[drive]..self.starts[drive + 1]
    }

    /// The number of the person who makes this click.
    pub(super) fn number(&self, click: usize) -> u32 {
        let members = u64::from(self.members());
        u32::try_from(click as u64 * STRIDE % members).unwrap_or_default()
    }

    /// The drive that a person wants.
    pub(super) fn drive(&self, number: u32) -> usize {
        self.starts.partition_point(|start| *start <= number) - 1
    }
}

/// Records of one size, by number, in a file, so that millions of them need no memory.
#[derive(Debug)]
pub(super) struct Records<const SIZE: usize> {
    file: File,
}

impl<const SIZE: usize> Records<SIZE> {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Self { file: options.open(path).with_context(|| format!("write {}", path.display()))? })
    }

    /// Writes records from a number on.
    pub(super) fn write(&self, number: u32, records: &[[u8; SIZE]]) -> anyhow::Result<()> {
        let at = u64::from(number) * SIZE as u64;
        self.file.write_all_at(records.as_flattened(), at).context("write records")
    }

    /// One record.
    pub(super) fn read(&self, number: u32) -> anyhow::Result<[u8; SIZE]> {
        let mut record = [0; SIZE];
        self.file.read_exact_at(&mut record, u64::from(number) * SIZE as u64).context("read a record")?;
        Ok(record)
    }

    /// All records of a range.
    pub(super) fn read_all(&self, range: Range<u32>) -> anyhow::Result<Vec<[u8; SIZE]>> {
        let mut records = vec![[0; SIZE]; range.len()];
        let at = u64::from(range.start) * SIZE as u64;
        self.file.read_exact_at(records.as_flattened_mut(), at).context("read records")?;
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_clicks_once_on_the_drive_they_want() {
        let crowd = Crowd::new(80_000, 2_000).unwrap();
        let mut clicked = vec![false; 80_000];
        let mut wanted = vec![0; 2_000];
        for click in 0..80_000 {
            let number = crowd.number(click);
            assert!(!std::mem::replace(&mut clicked[number as usize], true), "{number} clicks twice");
            let drive = crowd.drive(number);
            assert!(crowd.people(drive).contains(&number));
            wanted[drive] += 1;
        }
        assert!((9_500..10_100).contains(&wanted[0]), "a few are very hot: {}", wanted[0]);
        assert!(wanted.iter().all(|count| *count > 0));
        assert!(wanted.is_sorted_by(|hot, cold| hot + 1 >= *cold));
        // Not first all of one drive and then all of another.
        let first: std::collections::HashSet<_> =
            (0..500).map(|click| crowd.drive(crowd.number(click))).collect();
        assert!(first.len() > 100, "{}", first.len());
        assert!(Crowd::new(1_000, 1_000).is_err());
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let path = std::env::temp_dir().join(format!("muster-records-{}", uuid::Uuid::now_v7()));
        let records = Records::<4>::create(&path).unwrap();
        records.write(2, &[*b"cccc", *b"dddd"]).unwrap();
        records.write(0, &[*b"aaaa", *b"bbbb"]).unwrap();
        assert_eq!(records.read(2).unwrap(), *b"cccc");
        assert_eq!(records.read_all(1..4).unwrap(), [*b"bbbb", *b"cccc", *b"dddd"]);
        assert!(records.read(4).is_err());
        std::fs::remove_file(path).unwrap();
    }
}
