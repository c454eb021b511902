//! The data directory: who may use it, for which server name, and what lies where in it.
//!
//! | path | what | who writes |
//! |---|---|---|
//! | `lock` | held while a process uses the directory | here |
//! | `server_name` | the name the data belongs to | here, once |
//! | `signing.key`, `old_signing_keys` | see [`crate::signing_key`] | |
//! | `log/`, `db/` | the log of writes, and the database it is applied to | the store |
//! | `media/` | uploaded files | the media service |
//! | `search/` | the index of messages, made anew when it is missing | the search service |
//! | `control.sock` | where `chappe user` reaches a running server | [`crate::control`] |

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use ruma::ServerName;

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("data_dir: {}: {error}", .path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("data_dir: {} is in use by another process; stop it first, or give this one a directory of its own", .0.display())]
    InUse(PathBuf),
    #[error(
        "server_name: found \"{configured}\"; allowed: \"{recorded}\", to which the data in {} belongs (a server cannot be renamed)",
        .path.display()
    )]
    OtherServer { path: PathBuf, configured: String, recorded: String },
}

/// A data directory that this process alone uses, until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be, locks it, and checks that it belongs to this server name.
    pub fn open(path: &Path, server_name: &ServerName) -> Result<Self, DataDirError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| DataDirError::File { path, error }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;

        let lock_path = path.join("lock");
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(at(&lock_path)(error)),
        }

        let name_path = path.join("server_name");
        match fs::read_to_string(&name_path) {
            Ok(recorded) if recorded.trim() == server_name.as_str() => {}
            Ok(recorded) => {
                return Err(DataDirError::OtherServer {
                    path: path.to_owned(),
                    configured: server_name.to_string(),
                    recorded: recorded.trim().to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_durably(&name_path, &format!("{server_name}\n"), 0o644).map_err(at(&name_path))?;
            }
            Err(error) => return Err(at(&name_path)(error)),
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub fn database(&self) -> PathBuf {
        self.path.join("db")
    }

    pub fn media(&self) -> PathBuf {
        self.path.join("media")
    }

    pub fn search(&self) -> PathBuf {
        self.path.join("search")
    }

    /// Whether a server has run here before.
    pub fn has_database(&self) -> bool {
        self.database().exists()
    }
}

/// Replaces a file whole: after a power cut it holds the old text or the new one.
pub fn write_durably(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    use std::io::Write;
    let written = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&written)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&written, path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn a_second_process_is_refused_while_the_first_runs() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("data");
        let first = DataDir::open(&path, server_name!("a.example")).expect("opened");
        assert!(matches!(DataDir::open(&path, server_name!("a.example")), Err(DataDirError::InUse(_))));
        drop(first);
        DataDir::open(&path, server_name!("a.example")).expect("opened again");
    }

    #[test]
    fn data_of_another_server_name_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        drop(DataDir::open(dir.path(), server_name!("a.example")).expect("opened"));
        let refused = DataDir::open(dir.path(), server_name!("b.example")).expect_err("another name");
        let text = refused.to_string();
        assert!(text.contains("\"b.example\"") && text.contains("\"a.example\""), "{text}");
    }
}
