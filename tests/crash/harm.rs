//! The ways in which the server comes to harm, and what it must do about those that it can notice.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use chappe_tests::{
    Failure,
    client::{Client, room_path, segment},
    server::Server,
};
use clap::ValueEnum;
use futures_util::future::join_all;
use rand::{Rng, RngExt, rngs::StdRng};
use reqwest::Method;
use serde_json::json;

use crate::{ledger::Ledger, power::Disk};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// `kill -9`.
    Kill,
    /// What the kernel had not written is gone too. Needs root.
    PowerCut,
    /// A write to the log that was cut off half-way: rubbish behind its end.
    TornTail,
    /// Flushes fail. Writes must stop, loudly; a restart finds the disk mended. Needs a C compiler.
    FailedFlush,
    /// The disk fills up, and later has space again: no restart. Needs root.
    FullDisk,
    /// `kill -9`, and at the end bytes of the table files are flipped: what is damaged must not be served.
    FlippedBytes,
}

/// How much space a disk has: enough for a run, and so little that it can be filled.
const DISK_MIB: u64 = 2048;
const SMALL_DISK_MIB: u64 = 400;

/// How long the server may take to notice, and to be well again. What is left of the log's segment has its space already, and is
/// filled first.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(180);

/// A write that soon fills what is left of the log's segment.
const LARGE_BYTES: usize = 60_000;

/// How many of them are made at once.
const WRITERS: usize = 16;

/// Makes flushes fail while the file that `FAILING_FLUSH` names exists.
const FAILING_FLUSH: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int flush(long call, int file) {
    const char *fault = getenv("FAILING_FLUSH");
    if (fault && access(fault, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return syscall(call, file);
}

int fsync(int file) { return flush(SYS_fsync, file); }
int fdatasync(int file) { return flush(SYS_fdatasync, file); }
"#;

/// What strikes the server, cycle by cycle.
pub struct Harm {
    variant: Variant,
    data: PathBuf,
    disk: Option<Disk>,
    /// The library that makes flushes fail, and the file that says when.
    failing_flush: Option<(PathBuf, PathBuf)>,
}

impl Harm {
    /// Prepares the directory of the server that will be harmed, before it is started.
    pub fn prepare(variant: Variant, directory: &Path, data: &Path) -> Result<Self, Failure> {
        let disk = match variant {
            Variant::PowerCut => Some(Disk::mount(directory, data, DISK_MIB)?),
            Variant::FullDisk => Some(Disk::mount(directory, data, SMALL_DISK_MIB)?),
            _ => None,
        };
        let failing_flush = match variant {
            Variant::FailedFlush => Some((build_failing_flush(directory)?, directory.join("flushes-fail"))),
            _ => None,
        };
        Ok(Self { variant, data: data.to_owned(), disk, failing_flush })
    }

    /// The environment that the server must be started in.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        self.failing_flush
            .iter()
            .flat_map(|(library, fault)| [("LD_PRELOAD", library.clone()), ("FAILING_FLUSH", fault.clone())])
            .collect()
    }

    /// Strikes once, and leaves the server running again. What the server failed to notice is a fault.
    pub async fn strike(
        &self,
        server: &mut Server,
        probe: &Client,
        ledger: &Ledger,
        random: &mut StdRng,
    ) -> Result<(), Failure> {
        match (self.variant, &self.disk, &self.failing_flush) {
            (Variant::PowerCut, Some(disk), _) => {
                server.freeze()?;
                disk.snapshot()?;
                server.kill()?;
                disk.restore()?;
            }
            (Variant::TornTail, ..) => {
                server.kill()?;
                tear_log(&self.data.join("log"), random)?;
            }
            (Variant::FailedFlush, _, Some((_, fault))) => {
                fs::write(fault, "")?;
                if !refuses_writes(probe).await {
                    ledger.fault("flushes fail, and writes are acknowledged").await;
                }
                server.kill()?;
                fs::remove_file(fault)?;
            }
            (Variant::FullDisk, Some(_), _) => {
                let ballast = self.data.join("ballast");
                fill(&ballast)?;
                if !refuses_writes(probe).await {
                    ledger.fault("the disk is full, and writes are acknowledged").await;
                }
                fs::remove_file(&ballast)?;
                if !accepts_writes(probe).await {
                    ledger.fault("the disk has space again, and writes are refused").await;
                }
                return Ok(());
            }
            _ => server.kill()?,
        }
        server.restart().await
    }

    /// What is left to do when everything has been checked: the data directory is checked by `chappe fsck`, and, where that is the
    /// variant, flipped bytes must be noticed.
    pub async fn finish(&self, server: &mut Server, reader: &Client, ledger: &Ledger) -> Result<(), Failure> {
        server.stop()?;
        let (is_clean, said) = server.run_command(&["fsck"])?;
        if !is_clean {
            ledger.fault(format!("chappe fsck finds fault with the data:\n{said}")).await;
        }
        if self.variant == Variant::FlippedBytes {
            self.flip_bytes(server, reader, ledger).await?;
        }
        Ok(())
    }

    /// Flips a byte in the middle of each table file. `chappe fsck` must find it, and no event may be served other than it was.
    async fn flip_bytes(&self, server: &mut Server, reader: &Client, ledger: &Ledger) -> Result<(), Failure> {
        let mut flipped = 0;
        for entry in fs::read_dir(self.data.join("db"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "sst") {
                continue;
            }
            let file = fs::File::options().read(true).write(true).open(&path)?;
            let (at, mut byte) = (file.metadata()?.len() / 2, [0]);
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ 0x20], at)?;
            flipped += 1;
        }
        let (is_clean, said) = server.run_command(&["fsck"])?;
        println!("{flipped} table files with a flipped byte; chappe fsck: {}", said.lines().last().unwrap_or_default());
        if flipped == 0 || is_clean {
            ledger.fault(format!("{flipped} table files were damaged, and chappe fsck finds nothing")).await;
        }
        if server.restart().await.is_err() {
            println!("the server refuses to start on them");
            return Ok(());
        }
        let (mut whole, mut refused) = (0, 0);
        for event in ledger.write(|entries| entries.events.clone()).await {
            let path = room_path(&event.room, &format!("event/{}", segment(&event.event_id)));
            match reader.attempt(Method::GET, &path, None).await {
                Ok((status, answer)) if status.is_success() => {
                    whole += 1;
                    if answer["content"] != event.content {
                        ledger.fault(format!("{} was served as {}", event.event_id, answer["content"])).await;
                    }
                }
                Ok((status, _)) if status.is_client_error() && status != 401 => {
                    ledger.fault(format!("{} is damaged, and was answered with {status}", event.event_id)).await;
                }
                _ => refused += 1,
            }
        }
        println!("{whole} events were served as they were sent, {refused} were refused");
        Ok(())
    }
}

fn build_failing_flush(directory: &Path) -> Result<PathBuf, Failure> {
    let (source, library) = (directory.join("failing_flush.c"), directory.join("failing_flush.so"));
    fs::write(&source, FAILING_FLUSH)?;
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status()?;
    if status.success() { Ok(library) } else { Err("the library that makes flushes fail cannot be built".into()) }
}

/// Writes rubbish behind the end of the newest segment, as a write that was cut off leaves it.
fn tear_log(log: &Path, random: &mut StdRng) -> Result<(), Failure> {
    let mut segments: Vec<PathBuf> =
        fs::read_dir(log)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    segments.sort();
    let newest = segments.last().ok_or("the log has no segment")?;
    let bytes = fs::read(newest)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // A frame may end with zeros: not so many.
    let begin = end + 64;
    let mut rubbish = vec![0; random.random_range(1..500).min(bytes.len().saturating_sub(begin))];
    random.fill_bytes(&mut rubbish);
    fs::File::options().write(true).open(newest)?.write_all_at(&rubbish, begin as u64)?;
    Ok(())
}

/// Fills the disk that a file is on.
fn fill(ballast: &Path) -> Result<(), Failure> {
    let mut file = fs::File::create(ballast)?;
    let piece = vec![1; 1 << 16];
    loop {
        match file.write_all(&piece).and_then(|()| file.sync_data()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn write_account_data(client: &Client, number: usize) -> Option<reqwest::StatusCode> {
    let user = segment(&client.user_id);
    let path = format!("/_matrix/client/v3/user/{user}/account_data/org.chappe.large.{number}");
    let body = json!({ "large": "x".repeat(LARGE_BYTES) });
    client.attempt(Method::PUT, &path, Some(&body)).await.ok().map(|(status, _)| status)
}

/// Writes until the server says that it cannot; a server that has ended refuses too.
async fn refuses_writes(client: &Client) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < NOTICE_TIMEOUT {
        let answers = join_all((0..WRITERS).map(|number| write_account_data(client, number))).await;
        if answers.iter().any(|answer| answer.is_none_or(|status| status.is_server_error())) {
            return true;
        }
    }
    false
}

async fn accepts_writes(client: &Client) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < NOTICE_TIMEOUT {
        if write_account_data(client, 0).await.is_some_and(|status| status.is_success()) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    false
}
