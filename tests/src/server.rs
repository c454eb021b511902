//! The server under test, as a process of its own.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Failure, authority::Authority};

/// How long a server may take to answer after it was started.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// One agency's server. Killed when dropped.
pub struct Server {
    /// Its Matrix name, with the federation port.
    pub name: String,
    /// Where its clients connect.
    pub client_url: String,
    directory: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
    process: Option<Child>,
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The binary under test: `HOMESERVER_BINARY`, or the one that was built beside this test.
fn binary() -> Result<PathBuf, Failure> {
    if let Some(path) = std::env::var_os("HOMESERVER_BINARY") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    let found = here.ancestors().skip(1).take(3).map(|directory| directory.join("chappe")).find(|path| path.is_file());
    found.ok_or_else(|| {
        "the chappe binary is not built: run `cargo build -p chappe-server`, or set HOMESERVER_BINARY".into()
    })
}

impl Server {
    /// Writes the configuration of a server called `host` that trusts `authority`, and starts it. `settings` are further lines of
    /// the configuration.
    pub async fn start(root: &Path, host: &str, authority: &Authority, settings: &str) -> Result<Self, Failure> {
        Self::start_in(root, host, authority, settings, Vec::new()).await
    }

    /// As [`Server::start`], in an environment that has these variables too.
    pub async fn start_in(
        root: &Path,
        host: &str,
        authority: &Authority,
        settings: &str,
        environment: Vec<(&'static str, PathBuf)>,
    ) -> Result<Self, Failure> {
        let federation_port = free_port()?;
        let name = format!("{host}:{federation_port}");
        let mut server = Self::configure(&root.join(host), &name, federation_port, authority, settings)?;
        server.environment = environment;
        server.restart().await?;
        Ok(server)
    }

    /// Starts a server called `name`, a host and a port, that listens for other servers on `federation_port`, which may be another
    /// port than the one in its name.
    pub async fn start_as(
        directory: &Path,
        name: &str,
        federation_port: u16,
        authority: &Authority,
        settings: &str,
    ) -> Result<Self, Failure> {
        let mut server = Self::configure(directory, name, federation_port, authority, settings)?;
        server.restart().await?;
        Ok(server)
    }

    /// The id of its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    fn configure(
        directory: &Path,
        name: &str,
        federation_port: u16,
        authority: &Authority,
        settings: &str,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(directory)?;
        let client_port = free_port()?;
        let (certificate, private_key) = authority.issue(name.split(':').next().unwrap_or(name))?;
        let configuration = format!(
            r#"
server_name = "{name}"
data_dir = {data_dir:?}

[listen]
client = ["127.0.0.1:{client_port}"]
federation = ["127.0.0.1:{federation_port}"]

[tls]
certificate = {certificate:?}
private_key = {private_key:?}
extra_roots = [{root_certificate:?}]

[registration]
mode = "open"

[federation]
allow_networks = ["127.0.0.0/8", "::1/128"]

[rate_limits]
enabled = false

{settings}
"#,
            data_dir = directory.join("data"),
            root_certificate = authority.certificate(),
        );
        fs::write(directory.join("conduit.toml"), configuration)?;
        Ok(Self {
            name: name.to_owned(),
            client_url: format!("http://127.0.0.1:{client_port}"),
            directory: directory.to_owned(),
            environment: Vec::new(),
            process: None,
        })
    }

    /// Starts the server, again after [`Server::kill`], and waits until it answers.
    pub async fn restart(&mut self) -> Result<(), Failure> {
        let log = fs::File::options().create(true).append(true).open(self.log_file())?;
        let process = Command::new(binary()?)
            .arg("--config")
            .arg(self.directory.join("conduit.toml"))
            .arg("serve")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.process = Some(process);
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if let Some(status) = self.process.as_mut().map(Child::try_wait).transpose()?.flatten() {
                return Err(format!("{} ended at once with {status}:\n{}", self.name, self.log()).into());
            }
            let answer = reqwest::get(format!("{}/_matrix/client/versions", self.client_url)).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("{} did not answer within {START_TIMEOUT:?}:\n{}", self.name, self.log()).into())
    }

    /// `kill -9`: no goodbye, no flush.
    pub fn kill(&mut self) -> Result<(), Failure> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Ends the server as an operator does, and waits until it has put everything away.
    pub fn stop(&mut self) -> Result<(), Failure> {
        if let Some(mut process) = self.process.take() {
            Command::new("kill").arg("-TERM").arg(process.id().to_string()).status()?;
            let status = process.wait()?;
            if !status.success() {
                return Err(format!("{} ended with {status}", self.name).into());
            }
        }
        Ok(())
    }

    /// Runs a command of the binary on the data of the server, which must have ended. Answers whether it succeeded, and what it said.
    pub fn run_command(&self, arguments: &[&str]) -> Result<(bool, String), Failure> {
        let mut command = Command::new(binary()?);
        let output = command.arg("--config").arg(self.directory.join("conduit.toml")).args(arguments).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// Stops the server in its tracks, as it is. Only [`Server::kill`] may follow.
    pub fn freeze(&self) -> Result<(), Failure> {
        let Some(process) = &self.process else { return Ok(()) };
        let status = Command::new("kill").arg("-STOP").arg(process.id().to_string()).status()?;
        if status.success() { Ok(()) } else { Err(format!("{} cannot be frozen", self.name).into()) }
    }

    /// The end of what the server has logged.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("server.log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A process that is gone already is what was wanted.
        let _ = self.kill();
    }
}
