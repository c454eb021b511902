//! The log's files: segments, named after their first position, allocated before they are written.
//!
//! [`Files`] and [`SegmentFile`] are traits so that tests can make a disk full or a flush fail. Nothing here knows what frames are.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::ids::Position;

/// The segment files of one log.
pub(crate) trait Files: Send + Sync {
    /// First positions of the segments, ascending.
    fn list(&self) -> io::Result<Vec<Position>>;
    /// Makes an empty segment with `bytes` of space reserved. On return the file and its name are durable; on error it is not there.
    fn create(&self, first: Position, bytes: u64) -> io::Result<Arc<dyn SegmentFile>>;
    fn open(&self, first: Position) -> io::Result<Arc<dyn SegmentFile>>;
    fn remove(&self, first: Position) -> io::Result<()>;
    /// Where a segment is, for messages.
    fn path(&self, first: Position) -> PathBuf;
}

/// One segment file.
pub(crate) trait SegmentFile: Send + Sync {
    fn read(&self) -> io::Result<Vec<u8>>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written durable. Once it has failed, it fails for good: the kernel may have dropped the pages it could
    /// not write, and would report success the next time.
    fn sync(&self) -> io::Result<()>;
    /// Turns everything from `offset` into zeros.
    fn erase_from(&self, offset: u64) -> io::Result<()>;
}

/// Whether an error says that there is no room: on the disk, in the quota, in the file.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Segments in a directory.
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory, made if it is not there.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent)?;
        }
        Ok(Self { path: path.to_owned() })
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Files for Directory {
    fn list(&self) -> io::Result<Vec<Position>> {
        let mut firsts = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let first = name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|digits| digits.parse().ok());
            firsts.extend(first.map(Position));
        }
        firsts.sort_unstable();
        Ok(firsts)
    }

    fn create(&self, first: Position, bytes: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let path = self.path(first);
        let make = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
            reserve(&file, 0, bytes)?;
            file.sync_all()?;
            sync_directory(&self.path)?;
            Ok(file)
        };
        match make() {
            Ok(file) => Ok(Arc::new(OsSegment::new(file))),
            Err(error) => {
                // Should this fail too, an empty segment stays behind, which recovery takes for what it is.
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn open(&self, first: Position) -> io::Result<Arc<dyn SegmentFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(first))?;
        Ok(Arc::new(OsSegment::new(file)))
    }

    fn remove(&self, first: Position) -> io::Result<()> {
        std::fs::remove_file(self.path(first))?;
        sync_directory(&self.path)
    }

    fn path(&self, first: Position) -> PathBuf {
        self.path.join(format!("{:020}.log", first.0))
    }
}

/// Reserves disk space, so that an append neither runs out of it nor changes the file's size, which would make each flush dearer.
fn reserve(file: &File, from: u64, to: u64) -> io::Result<()> {
    use rustix::{fs::FallocateFlags, io::Errno};
    match rustix::fs::fallocate(file, FallocateFlags::empty(), from, to.saturating_sub(from)) {
        Ok(()) => Ok(()),
        // File systems that cannot reserve: the file is then zeros without space behind them, and an append may find the disk full.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => file.set_len(to),
        Err(error) => Err(error.into()),
    }
}

struct OsSegment {
    file: File,
    /// The first failure of a flush. The lock also orders flushes: the kernel reports an error only once per open file.
    failed: Mutex<Option<String>>,
}

impl OsSegment {
    fn new(file: File) -> Self {
        Self { file, failed: Mutex::new(None) }
    }
}

impl SegmentFile for OsSegment {
    fn read(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.file.metadata()?.len()).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let mut failed = self.failed.lock();
        if let Some(failure) = failed.as_ref() {
            return Err(io::Error::other(failure.clone()));
        }
        self.file.sync_data().inspect_err(|error| *failed = Some(error.to_string()))
    }

    fn erase_from(&self, offset: u64) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        self.file.set_len(offset)?;
        // Only a reservation: if there is no space for it, appends will say so.
        if len > offset && reserve(&self.file, offset, len).is_err() {
            tracing::debug!(offset, len, "could not reserve the log file's space again");
        }
        Ok(())
    }
}
