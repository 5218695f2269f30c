//! What lies in `pg_wal`: segments, whose names tell timelines, and the history of timelines.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pgx_control::ids::{Lsn, Timeline};

use super::control_file::{ControlFile, parse_lsn};
use super::error::{Error, system};
use super::files;

/// Records begin at multiples of this.
const ALIGNMENT: u64 = 8;

/// A page begins with this much, the first one of a segment with more.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;

/// The highest timeline that a segment is of. A standby makes one when it receives the first bytes
/// of a new timeline, which its control file names only later.
pub(super) fn newest_timeline(data: &Path) -> Result<Timeline, Error> {
    let folder = data.join("pg_wal");
    let entries = std::fs::read_dir(&folder).map_err(system("cannot list", &folder))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(Timeline(names.filter_map(|name| timeline_of(&name)).max().unwrap_or_default()))
}

fn timeline_of(name: &str) -> Option<u32> {
    let is_segment = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.get(..8).filter(|_| is_segment).and_then(|text| u32::from_str_radix(text, 16).ok())
}

/// Where a timeline left the one before. Where that cannot be told it is nowhere, which no recorded
/// switch has: the directory counts as a fork then.
pub(super) fn switch(data: &Path, timeline: Timeline) -> Result<Lsn, Error> {
    if timeline.0 <= 1 {
        return Ok(Lsn(0));
    }
    let path = data.join("pg_wal").join(format!("{:08X}.history", timeline.0));
    Ok(files::read(&path)?.as_deref().and_then(last_switch).unwrap_or(Lsn(0)))
}

fn last_switch(text: &str) -> Option<Lsn> {
    let mut lines = text.lines().map(str::trim);
    let last = lines.rfind(|line| !line.is_empty() && !line.starts_with('#'))?;
    parse_lsn(last.split_whitespace().nth(1)?)
}

/// The end of the last checkpoint's record: how far a standby has flushed that has it.
pub(super) fn checkpoint_end(data: &Path, control: &ControlFile) -> Result<Lsn, Error> {
    let (start, timeline) = control.checkpoint;
    let (segment, page) = control.wal;
    let per_id = 0x1_0000_0000 / segment;
    let number = start.0 / segment;
    let name = format!("{:08X}{:08X}{:08X}", timeline.0, number / per_id, number % per_id);
    let path = data.join("pg_wal").join(name);
    let mut bytes = [0; 4];
    File::open(&path)
        .and_then(|file| file.read_exact_at(&mut bytes, start.0 % segment))
        .map_err(system("cannot read the last checkpoint in", &path))?;
    Ok(record_end(start, u32::from_ne_bytes(bytes).into(), segment, page))
}

/// The end of a record of so many bytes, with the headers of pages that it runs into.
fn record_end(start: Lsn, length: u64, segment: u64, page: u64) -> Lsn {
    let mut left = length.next_multiple_of(ALIGNMENT);
    let mut at = start.0;
    loop {
        let room = page - at % page;
        if left <= room {
            return Lsn(at + left);
        }
        left -= room;
        at += room;
        at += if at.is_multiple_of(segment) { SEGMENT_HEADER } else { PAGE_HEADER };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_segments_tell_a_timeline() {
        assert_eq!(timeline_of("00000002000000000000000A"), Some(2));
        for other in ["00000003.history", "00000004000000000000000A.partial", "archive_status"] {
            assert_eq!(timeline_of(other), None, "{other}");
        }
    }

    #[test]
    fn history_ends_with_the_newest_switch() {
        let text = "1\t0/3000158\tno recovery target specified\n\n2\t0/50000A0\tno reason\n";
        assert_eq!(last_switch(text), Some(Lsn(0x0500_00A0)));
        assert_eq!(last_switch("# nothing\n"), None);
    }

    #[test]
    fn record_that_crosses_a_page_ends_after_its_header() {
        let end = |start, length| record_end(Lsn(start), length, 1 << 24, 8192).0;
        assert_eq!(end(0x28, 114), 0x28 + 120);
        assert_eq!(end(8192 - 120, 114), 8192, "it ends with the page");
        assert_eq!(end(8192 - 80, 114), 8192 + 24 + 40);
        assert_eq!(end((1 << 24) - 80, 114), (1 << 24) + 40 + 40);
    }
}
