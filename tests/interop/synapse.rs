//! Synapse as a process, installed from Python's package index into a virtual environment of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use chappe_tests::{Failure, authority::Authority, server::free_port};

/// The release this project is tested against.
const VERSION: &str = "1.163.2";

const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A running Synapse. Killed when dropped.
pub struct Synapse {
    pub client_url: String,
    process: Child,
    log: PathBuf,
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// The interpreter of the environment that holds Synapse; makes it if it is missing.
pub fn install(environment: &Path) -> Result<PathBuf, Failure> {
    let python = environment.join("bin/python");
    let has_it = Command::new(&python)
        .args(["-c", &format!("import synapse; assert synapse.__version__ == '{VERSION}'")])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_it {
        println!("installing Synapse {VERSION}");
        run(Command::new("python3").args(["-m", "venv"]).arg(environment))
            .map_err(|failure| format!("Synapse needs Python 3 with its venv module: {failure}"))?;
        run(Command::new(&python).args(["-m", "pip", "install", "-q", &format!("matrix-synapse=={VERSION}")]))?;
    }
    Ok(python)
}

impl Synapse {
    pub async fn start(
        python: &Path,
        directory: &Path,
        name: &str,
        federation_port: u16,
        authority: &Authority,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(directory)?;
        let client_port = free_port()?;
        let (certificate, private_key) = authority.issue(name.split(':').next().unwrap_or(name))?;
        let log = directory.join("synapse.log");
        let configuration = format!(
            r#"
server_name: "{name}"
listeners:
  - {{ port: {client_port}, type: http, bind_addresses: ["127.0.0.1"], resources: [{{ names: [client] }}] }}
  - {{ port: {federation_port}, type: http, tls: true, bind_addresses: ["127.0.0.1"], resources: [{{ names: [federation, media] }}] }}
tls_certificate_path: {certificate:?}
tls_private_key_path: {private_key:?}
federation_custom_ca_list: [{ca:?}]
ip_range_blacklist: []
database: {{ name: sqlite3, args: {{ database: {database:?} }} }}
media_store_path: {media:?}
signing_key_path: {key:?}
log_config: {log_config:?}
pid_file: {pid:?}
enable_registration: true
enable_registration_without_verification: true
registration_shared_secret: "interoperability"
macaroon_secret_key: "interoperability"
form_secret: "interoperability"
report_stats: false
suppress_key_server_warning: true
trusted_key_servers: []
rc_message: &unlimited {{ per_second: 10000, burst_count: 10000 }}
rc_registration: *unlimited
rc_login: {{ address: *unlimited, account: *unlimited, failed_attempts: *unlimited }}
rc_joins: {{ local: *unlimited, remote: *unlimited }}
rc_joins_per_room: *unlimited
rc_invites: {{ per_room: *unlimited, per_user: *unlimited, per_issuer: *unlimited }}
rc_room_creation: *unlimited
federation_rr_transactions_per_room_per_second: 1000
federation: {{ destination_min_retry_interval: 1s, destination_max_retry_interval: 2s }}
"#,
            ca = authority.certificate(),
            database = directory.join("homeserver.db"),
            media = directory.join("media"),
            key = directory.join("signing.key"),
            log_config = directory.join("log.yaml"),
            pid = directory.join("synapse.pid"),
        );
        fs::write(directory.join("homeserver.yaml"), configuration)?;
        fs::write(
            directory.join("log.yaml"),
            format!(
                "version: 1\nformatters: {{ f: {{ format: '%(asctime)s %(levelname)s %(name)s %(message)s' }} }}\n\
                 handlers: {{ h: {{ class: logging.FileHandler, filename: {log:?}, formatter: f }} }}\n\
                 root: {{ level: INFO, handlers: [h] }}\n"
            ),
        )?;
        let base = |command: &mut Command| {
            command.args(["-m", "synapse.app.homeserver", "-c"]).arg(directory.join("homeserver.yaml"));
        };
        let mut keys = Command::new(python);
        base(&mut keys);
        run(keys.arg("--generate-keys"))?;
        let mut start = Command::new(python);
        base(&mut start);
        let output = fs::File::create(directory.join("output"))?;
        let process = start.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        let client_url = format!("http://127.0.0.1:{client_port}");
        let mut synapse = Self { client_url, process, log };
        let begun = Instant::now();
        while begun.elapsed() < START_TIMEOUT {
            if let Some(status) = synapse.process.try_wait()? {
                let output = fs::read_to_string(directory.join("output")).unwrap_or_default();
                return Err(format!("Synapse ended at once with {status}: {output}").into());
            }
            let answer = reqwest::get(format!("{}/_matrix/client/versions", synapse.client_url)).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(synapse);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err("Synapse did not answer in time".into())
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
        lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        // A process that is gone already is what was wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
