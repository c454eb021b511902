//! The framing of one batch in a log file.
//!
//! A frame is a header of 32 bytes and the batch's writes, positions filled in. All numbers are big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | magic; not UTF-8, so that no text stored in a batch looks like a frame |
//! | 4..8 | CRC-32 of everything after it |
//! | 8..12 | length of the writes |
//! | 12..16 | how many positions the batch takes; 0 marks a seal: this segment is complete, another one follows |
//! | 16..24 | the batch's first position |
//! | 24..32 | the position up to which the log was known to be fsynced when this frame was written |
//!
//! The last field tells a torn tail from damage: a frame that cannot be read was acknowledged exactly if a later frame says that
//! the log had been fsynced beyond it.

use crate::{engine::Write, ids::Position};

const MAGIC: [u8; 4] = [0xC4, 0xFF, b'L', 1];
pub(super) const HEADER_LEN: usize = 32;
pub(super) const SEAL_LEN: u64 = HEADER_LEN as u64;

/// The largest batch the log takes, in bytes of its keys and values with their lengths.
pub(super) const WRITES_LEN_MAX: usize = 256 << 20;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;

/// A frame read back.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) first: Position,
    /// Zero for a seal.
    pub(super) positions: u32,
    pub(super) synced: Position,
    writes: &'a [u8],
    /// Length of the whole frame in the file.
    pub(super) len: usize,
}

/// What stands at a place in a log file.
pub(super) enum Parsed<'a> {
    Frame(Frame<'a>),
    /// Nothing but zeros up to the end of the file, or the end itself.
    End,
    /// Something else than a whole frame.
    Bad(&'static str),
}

/// Frames a batch. `None` if it is larger than [`WRITES_LEN_MAX`].
pub(super) fn encode(first: Position, positions: u32, synced: Position, writes: &[Write]) -> Option<Vec<u8>> {
    // Each key and value has a number of four bytes before it, and each write a byte for what it is.
    let len: usize = writes.iter().map(|write| 9 + write.len()).sum();
    let mut frame = Vec::with_capacity(HEADER_LEN + len);
    frame.resize(HEADER_LEN, 0);
    for write in writes {
        match write {
            Write::Put { key, value } => {
                frame.push(PUT);
                put_bytes(&mut frame, key)?;
                put_bytes(&mut frame, value)?;
            }
            Write::Delete { key } => {
                frame.push(DELETE);
                put_bytes(&mut frame, key)?;
            }
            Write::DeleteRange { start, end } => {
                frame.push(DELETE_RANGE);
                put_bytes(&mut frame, start)?;
                put_bytes(&mut frame, end)?;
            }
        }
    }
    let len = frame.len() - HEADER_LEN;
    if len > WRITES_LEN_MAX {
        return None;
    }
    frame[0..4].copy_from_slice(&MAGIC);
    frame[8..12].copy_from_slice(&u32::try_from(len).ok()?.to_be_bytes());
    frame[12..16].copy_from_slice(&positions.to_be_bytes());
    frame[16..24].copy_from_slice(&first.0.to_be_bytes());
    frame[24..32].copy_from_slice(&synced.0.to_be_bytes());
    let crc = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_be_bytes());
    Some(frame)
}

/// A seal: the last frame of a complete segment. `next` is the first position of the segment that follows.
pub(super) fn encode_seal(next: Position, synced: Position) -> Vec<u8> {
    encode(next, 0, synced, &[]).unwrap_or_default()
}

fn put_bytes(frame: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    frame.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_be_bytes());
    frame.extend_from_slice(bytes);
    Some(())
}

/// Reads what stands at the beginning of `bytes`, the rest of a log file.
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return if is_zero(bytes) { Parsed::End } else { Parsed::Bad("a frame's header is cut short") };
    };
    if header[0..4] != MAGIC {
        return if is_zero(bytes) { Parsed::End } else { Parsed::Bad("no frame begins here") };
    }
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let long = |at: usize| u64::from(number(at)) << 32 | u64::from(number(at + 4));
    let len = number(8) as usize;
    let Some(writes) = body.get(..len) else { return Parsed::Bad("a frame is longer than the file") };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[8..]);
    crc.update(writes);
    if crc.finalize() != number(4) {
        return Parsed::Bad("a frame's checksum does not match");
    }
    Parsed::Frame(Frame {
        first: Position(long(16)),
        positions: number(12),
        synced: Position(long(24)),
        writes,
        len: HEADER_LEN + len,
    })
}

/// The frames that stand anywhere in `bytes`, at whatever offset: used behind damage, where their boundaries are not known.
pub(super) fn find_frames(bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(at..)?;
            at += rest.windows(MAGIC.len()).position(|window| window == MAGIC)?;
            match parse(bytes.get(at..)?) {
                Parsed::Frame(frame) => {
                    at += frame.len;
                    return Some(frame);
                }
                Parsed::End | Parsed::Bad(_) => at += 1,
            }
        }
    })
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

impl Frame<'_> {
    pub(super) fn is_seal(&self) -> bool {
        self.positions == 0
    }

    /// The last position of the batch.
    pub(super) fn last(&self) -> Position {
        Position(self.first.0 + u64::from(self.positions.saturating_sub(1)))
    }

    /// The batch's writes. `None` if they do not decode: the checksum was right, so this program wrote something else than it reads.
    pub(super) fn decode_writes(&self) -> Option<Vec<Write>> {
        let mut rest = self.writes;
        let mut writes = Vec::new();
        while let Some((tag, after)) = rest.split_first() {
            rest = after;
            writes.push(match *tag {
                PUT => Write::Put { key: take_bytes(&mut rest)?, value: take_bytes(&mut rest)? },
                DELETE => Write::Delete { key: take_bytes(&mut rest)? },
                DELETE_RANGE => Write::DeleteRange { start: take_bytes(&mut rest)?, end: take_bytes(&mut rest)? },
                _ => return None,
            });
        }
        Some(writes)
    }
}

fn take_bytes(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let (len, after) = rest.split_first_chunk::<4>()?;
    let len = u32::from_be_bytes(*len) as usize;
    let bytes = after.get(..len)?;
    *rest = after.get(len..)?;
    Some(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes() -> Vec<Write> {
        vec![
            Write::Put { key: b"key".to_vec(), value: vec![0xFF; 300] },
            Write::Delete { key: b"gone".to_vec() },
            Write::DeleteRange { start: b"a".to_vec(), end: b"b".to_vec() },
        ]
    }

    #[test]
    fn a_frame_reads_back_as_it_was_written() {
        let mut bytes = encode(Position(7), 3, Position(5), &writes()).unwrap();
        bytes.extend_from_slice(&[0; 100]);
        let Parsed::Frame(frame) = parse(&bytes) else { panic!("not a frame") };
        assert_eq!((frame.first, frame.last(), frame.synced), (Position(7), Position(9), Position(5)));
        assert_eq!(frame.decode_writes().unwrap(), writes());
        assert!(matches!(parse(&bytes[frame.len..]), Parsed::End));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encode(Position(1), 1, Position(0), &writes()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(matches!(parse(&bad), Parsed::Bad(_)), "flipped byte {at}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let good = encode(Position(1), 1, Position(0), &writes()).unwrap();
        for len in 1..good.len() {
            assert!(matches!(parse(&good[..len]), Parsed::Bad(_)), "cut at {len}");
        }
    }

    #[test]
    fn frames_are_found_behind_damage() {
        let mut bytes = vec![0xC4; 77];
        bytes.extend(encode(Position(4), 1, Position(3), &writes()).unwrap());
        bytes.extend(encode_seal(Position(5), Position(4)));
        let found: Vec<_> = find_frames(&bytes).map(|frame| (frame.first, frame.is_seal())).collect();
        assert_eq!(found, [(Position(4), false), (Position(5), true)]);
    }
}
