//! Doing a work with many hands, and what it took.

use std::{
    fs,
    future::Future,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use chappe_http_client::Failure;
use futures_util::{StreamExt, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// What one work took.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub work: String,
    pub operations: usize,
    pub seconds: f64,
    pub per_second: f64,
    /// Latency of one operation, in milliseconds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Processor time of the server, in seconds for 10,000 operations; where its processes are known.
    pub cpu_seconds_per_10k: Option<f64>,
    /// Resident memory of the server right after, in MiB.
    pub memory_mib: Option<f64>,
    /// What the server's data grew by on disk, in MiB for 100,000 operations; where its directory is known.
    pub disk_mib_per_100k: Option<f64>,
    /// Every latency, in milliseconds, sorted: for the chart.
    #[serde(skip)]
    pub latencies_ms: Vec<f64>,
}

/// The server's processes on this machine, whose cost is read from `/proc`, and its data.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    pids: Vec<u32>,
    data_dir: Option<PathBuf>,
}

/// What a server has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    cpu_seconds: Option<f64>,
    disk_mib: Option<f64>,
}

/// Clock ticks a second, as Linux counts processor time for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Size of a page of memory, in bytes.
const PAGE_BYTES: f64 = 4096.0;

impl Processes {
    pub fn new(pids: Vec<u32>, data_dir: Option<PathBuf>) -> Self {
        Self { pids, data_dir }
    }

    pub fn usage(&self) -> Usage {
        let disk = self.data_dir.as_deref().map(directory_bytes).map(|bytes| bytes as f64 / f64::from(1 << 20));
        Usage { cpu_seconds: self.cpu_seconds(), disk_mib: disk }
    }

    /// Processor seconds so far, of all threads.
    fn cpu_seconds(&self) -> Option<f64> {
        self.sum(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name, in parentheses, may hold spaces: fields are counted after it.
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
            Some(ticks / TICKS_PER_SECOND)
        })
    }

    pub fn memory_mib(&self) -> Option<f64> {
        self.sum(|pid| {
            let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
            let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
            Some(pages * PAGE_BYTES / f64::from(1 << 20))
        })
    }

    fn sum(&self, read: impl Fn(u32) -> Option<f64>) -> Option<f64> {
        (!self.pids.is_empty()).then(|| self.pids.iter().map(|pid| read(*pid)).sum::<Option<f64>>()).flatten()
    }
}

/// Bytes on disk below a directory: blocks, so that what is reserved but not written counts too.
fn directory_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    // A file that goes away meanwhile is none.
    entries
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() { directory_bytes(&entry.path()) } else { metadata.blocks() * 512 })
        })
        .sum()
}

pub fn progress(work: &str, operations: usize) -> ProgressBar {
    let bar = ProgressBar::new(operations as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg:32} {bar:30} {pos}/{len} {per_sec}") {
        bar.set_style(style);
    }
    bar.set_message(work.to_owned());
    bar
}

/// Does `operation` for 0, 1, … up to `operations`, `hands` of them at a time: `operation(hand, number)`.
///
/// What an operation answers is how long it took where it measures itself; else it is timed from start to end.
pub async fn drive<F>(
    work: &str,
    processes: &Processes,
    hands: usize,
    operations: usize,
    operation: impl Fn(usize, usize) -> F,
) -> Result<Measured, Failure>
where
    F: Future<Output = Result<Option<Duration>, Failure>>,
{
    let bar = progress(work, operations);
    let next = AtomicUsize::new(0);
    let (before, begun) = (processes.usage(), Instant::now());
    let mut working: FuturesUnordered<_> = (0..hands)
        .map(|hand| {
            let (next, operation, bar) = (&next, &operation, &bar);
            async move {
                let mut latencies = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= operations {
                        return Ok::<_, Failure>(latencies);
                    }
                    let begun = Instant::now();
                    let measured = operation(hand, number).await?;
                    latencies.push(measured.unwrap_or_else(|| begun.elapsed()));
                    bar.inc(1);
                }
            }
        })
        .collect();
    let mut latencies = Vec::with_capacity(operations);
    while let Some(done) = working.next().await {
        latencies.extend(done?);
    }
    drop(working);
    let elapsed = begun.elapsed();
    bar.finish_and_clear();
    Ok(measured(work, latencies, elapsed, before, processes))
}

/// Sums up what was timed by hand.
pub fn measured(
    work: &str,
    latencies: Vec<Duration>,
    elapsed: Duration,
    before: Usage,
    processes: &Processes,
) -> Measured {
    let mut latencies_ms: Vec<f64> = latencies.into_iter().map(|latency| latency.as_secs_f64() * 1000.0).collect();
    latencies_ms.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (latencies_ms.len().saturating_sub(1) as f64 * share).round() as usize;
        latencies_ms.get(index).copied().unwrap_or_default()
    };
    let operations = latencies_ms.len();
    let after = processes.usage();
    let cpu = after.cpu_seconds.zip(before.cpu_seconds).map(|(after, before)| after - before);
    let disk = after.disk_mib.zip(before.disk_mib).map(|(after, before)| after - before);
    Measured {
        work: work.to_owned(),
        operations,
        seconds: elapsed.as_secs_f64(),
        per_second: operations as f64 / elapsed.as_secs_f64(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        cpu_seconds_per_10k: cpu.map(|cpu| cpu * 10_000.0 / operations.max(1) as f64),
        memory_mib: processes.memory_mib(),
        disk_mib_per_100k: disk.map(|disk| disk * 100_000.0 / operations.max(1) as f64),
        latencies_ms,
    }
}
