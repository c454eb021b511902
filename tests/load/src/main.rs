//! One load program for any homeserver: plain client-server API, by URL. Prints a table, and JSON or a chart where asked; with several
//! servers it does each work on one after the other and prints the ratios, as machines drift.
//!
//! `load --server chappe=http://127.0.0.1:8008,1234 --server other=http://127.0.0.1:8009,5678`: the numbers are ids of the server's
//! processes on this machine, whose processor time and memory are read, and after them its data directory, whose growth is. Registration must be open and rate limits off.

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use chappe_http_client::Failure;
use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::{
    measure::{Measured, Processes},
    works::{Load, Work},
};

mod chart;
mod measure;
mod works;

#[derive(Parser)]
struct Arguments {
    /// `NAME=URL[,PID...][,DATA_DIR]`; several are compared with the first.
    #[arg(long, required = true, value_parser = parse_server)]
    server: Vec<ServerArgument>,
    /// The URL of a server that federates with the first one, for the works that cross servers.
    #[arg(long)]
    peer: Option<String>,
    /// The `as_token` of an application service that the server has registered, for users named `load*`: the people that a work needs are
    /// registered by it, so that no passwords need hashing.
    #[arg(long)]
    app_service_token: Option<String>,
    /// The works to do; by default all that one server can do.
    #[arg(long, value_enum, value_delimiter = ',')]
    work: Vec<Work>,
    /// Share of the full sizes, or how many times as much: 1 is 256 accounts, 20,000 messages, a room of 2,000, 10,000 waiters.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// How often each work is done on each server, in turn; the median is told.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Write every figure here.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw the latencies here, as SVG.
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(Clone)]
struct ServerArgument {
    name: String,
    url: String,
    pids: Vec<u32>,
    data_dir: Option<PathBuf>,
}

fn parse_server(text: &str) -> Result<ServerArgument, String> {
    let (name, rest) = text.split_once('=').ok_or("NAME=URL[,PID...]")?;
    let mut parts = rest.split(',');
    let url = parts.next().unwrap_or_default().to_owned();
    let (mut pids, mut data_dir) = (Vec::new(), None);
    for part in parts {
        match part.parse() {
            Ok(pid) => pids.push(pid),
            Err(_) if data_dir.is_none() => data_dir = Some(PathBuf::from(part)),
            Err(_) => return Err(format!("{part} is no process id")),
        }
    }
    Ok(ServerArgument { name: name.to_owned(), url, pids, data_dir })
}

/// What one work took on one server, over all rounds.
#[derive(Serialize)]
struct Row {
    server: String,
    #[serde(flatten)]
    median: Measured,
}

/// Resident memory of a server that nobody asks for anything, in MiB: before all works, and after them.
#[derive(Serialize)]
struct AtRest {
    server: String,
    before_mib: Option<f64>,
    after_mib: Option<f64>,
}

/// What was measured.
#[derive(Serialize)]
struct Figures {
    works: Vec<Row>,
    memory_at_rest: Vec<AtRest>,
}

/// How long servers rest before their memory is looked at.
const REST: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = run(&arguments).await.and_then(|figures| report(&arguments, &figures));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Figures, Failure> {
    let memory_of = |server: &ServerArgument| Processes::new(server.pids.clone(), None).memory_mib();
    let before: Vec<_> = arguments.server.iter().map(memory_of).collect();
    let works = run_works(arguments).await?;
    tokio::time::sleep(REST).await;
    let at_rest = |(server, before_mib): (&ServerArgument, Option<f64>)| AtRest {
        server: server.name.clone(),
        before_mib,
        after_mib: memory_of(server),
    };
    Ok(Figures { works, memory_at_rest: arguments.server.iter().zip(before).map(at_rest).collect() })
}

async fn run_works(arguments: &Arguments) -> Result<Vec<Row>, Failure> {
    let mut works = if arguments.work.is_empty() { Work::value_variants().to_vec() } else { arguments.work.clone() };
    if arguments.work.is_empty() && arguments.peer.is_none() {
        works.retain(|work| !work.crosses_servers());
    }
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let mut rows: Vec<Row> = Vec::new();
    let mut all: Vec<Vec<Vec<Measured>>> = vec![Vec::new(); works.len()];
    for round in 0..arguments.rounds {
        let mut loads = Vec::new();
        for server in &arguments.server {
            let run = format!("{seconds:x}r{round}");
            let processes = Processes::new(server.pids.clone(), server.data_dir.clone());
            let mut load = Load::new(&server.url, arguments.peer.as_deref(), processes, run, arguments.scale)?;
            load.app_service_token = arguments.app_service_token.clone();
            loads.push(load);
        }
        for (work, all) in works.iter().zip(&mut all) {
            all.resize(arguments.server.len(), Vec::new());
            for ((load, server), all) in loads.iter_mut().zip(&arguments.server).zip(all) {
                match load.run(*work).await {
                    Ok(measured) => all.extend(measured),
                    // One server may lack what another has: the others are measured all the same.
                    Err(failure) => eprintln!("{}: {work:?} failed: {failure}", server.name),
                }
            }
        }
    }
    for all in all {
        for (measured, server) in all.into_iter().zip(&arguments.server) {
            let mut names: Vec<String> = Vec::new();
            for one in &measured {
                if !names.contains(&one.work) {
                    names.push(one.work.clone());
                }
            }
            for name in names {
                let mut same: Vec<_> = measured.iter().filter(|one| one.work == name).cloned().collect();
                same.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
                let median = same.swap_remove(same.len() / 2);
                rows.push(Row { server: server.name.clone(), median });
            }
        }
    }
    Ok(rows)
}

fn report(arguments: &Arguments, figures: &Figures) -> Result<(), Failure> {
    let rows = &figures.works;
    let or_dash =
        |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
    println!("| work | server | operations/s | p50 ms | p99 ms | CPU s / 10,000 | memory MiB | disk MiB / 100,000 |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.median.work.as_str()) {
            names.push(&row.median.work);
        }
    }
    for name in &names {
        for row in rows.iter().filter(|row| row.median.work == *name) {
            let m = &row.median;
            println!(
                "| {name} | {} | {:.0} | {:.2} | {:.2} | {} | {} | {} |",
                row.server,
                m.per_second,
                m.p50_ms,
                m.p99_ms,
                or_dash(m.cpu_seconds_per_10k, 2),
                or_dash(m.memory_mib, 0),
                or_dash(m.disk_mib_per_100k, 0),
            );
        }
    }
    println!();
    for AtRest { server, before_mib, after_mib } in &figures.memory_at_rest {
        let (before, after) = (or_dash(*before_mib, 0), or_dash(*after_mib, 0));
        println!("Memory of {server} at rest: {before} MiB before, {after} MiB after.");
    }
    if let [first, others @ ..] = arguments.server.as_slice()
        && !others.is_empty()
    {
        println!("\nHow many times as fast {} is (operations a second; processor time):", first.name);
        for name in &names {
            let find = |server: &str| rows.iter().find(|row| row.server == server && row.median.work == *name);
            for other in others {
                if let (Some(ours), Some(theirs)) = (find(&first.name), find(&other.name)) {
                    let speed = ours.median.per_second / theirs.median.per_second;
                    let cpu = theirs.median.cpu_seconds_per_10k.zip(ours.median.cpu_seconds_per_10k);
                    let cpu = cpu.map(|(theirs, ours)| theirs / ours);
                    println!("  {name}: {speed:.1} and {} times {}", or_dash(cpu, 1), other.name);
                }
            }
        }
    }
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string_pretty(figures)?)?;
    }
    if let Some(file) = &arguments.svg {
        let lines: Vec<_> = rows
            .iter()
            .map(|row| (format!("{}: {}", row.server, row.median.work), &row.median.latencies_ms[..]))
            .collect();
        fs::write(file, chart::draw(&lines))?;
    }
    Ok(())
}
