//! The command line: what can be asked for, in the words of `--help`. What each command does is in
//! [`crate::commands`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A Matrix homeserver.
#[derive(Debug, Parser)]
#[command(name = "chappe", version, about, propagate_version = true)]
pub struct Cli {
    /// The configuration file. Default: $CHAPPE_CONFIG, ./conduit.toml, /etc/chappe/conduit.toml, or the embedded
    /// trial configuration.
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server (the default).
    Serve,
    /// Say whether the configuration would be accepted, and what it comes to.
    CheckConfig,
    /// Check the data of a server that is not running, and say what would be repaired. The exit code is 1 if anything was found.
    Fsck {
        /// Do not read the files of the media repository.
        #[arg(long)]
        skip_media: bool,
    },
    /// Manage accounts, whether the server is running or not.
    #[command(subcommand)]
    User(UserCommand),
    /// Read what users have reported.
    #[command(subcommand)]
    Reports(ReportsCommand),
    /// Say why a device may not be able to read an event: what this server knows of each step its key takes.
    ExplainDelivery {
        #[arg(long, value_name = "EVENT_ID")]
        event: String,
        /// The device that cannot read it.
        #[arg(long, value_name = "DEVICE_ID")]
        device: String,
        /// Whose device it is: a whole user id. Default: the member of the event's room who has a device of that name.
        #[arg(long, value_name = "USER_ID")]
        user: Option<String>,
    },
    /// Manage the key this server signs its events with.
    #[command(subcommand)]
    SigningKey(SigningKeyCommand),
    /// Make certificates for servers that trust each other through their own authority.
    #[command(subcommand)]
    Tls(TlsCommand),
    /// Ask a running server whether it answers; the exit code is its health.
    Health {
        /// Where it listens. Default: the first client address of the configuration.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Create an account.
    Create {
        /// The name before the colon (alice), or the whole user id.
        name: String,
        #[command(flatten)]
        password: PasswordSource,
        /// Make the account an administrator of this server.
        #[arg(long)]
        admin: bool,
    },
    /// Give an account a new password, and log out all its devices.
    ResetPassword {
        name: String,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// List the accounts of this server.
    List,
    /// Deactivate an account, for good: it is logged out everywhere and its name is never given out again.
    Deactivate { name: String },
    /// Make an account an administrator's, or with --no an ordinary one again.
    SetAdmin {
        name: String,
        /// Take the rights away.
        #[arg(long)]
        no: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum ReportsCommand {
    /// List what users have reported, the oldest first: milliseconds since 1970, who, about whom or what, why.
    List,
}

#[derive(Args, Debug)]
pub struct PasswordSource {
    /// A file whose first line is the password; `-` is standard input. Default: a random password, printed once.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum SigningKeyCommand {
    /// Make a new key. A key that exists is kept as an old one, with which others can still verify old events.
    Generate,
    /// Print the ids and public halves of the keys.
    Show,
}

#[derive(Debug, Subcommand)]
pub enum TlsCommand {
    /// Make a certification authority: a certificate for `tls.extra_roots`, and its key.
    Authority {
        #[arg(long, value_name = "NAME")]
        name: String,
        #[command(flatten)]
        output: CertificateOutput,
    },
    /// Issue a server's certificate from an authority.
    Issue {
        #[arg(long, value_name = "FILE")]
        ca_certificate: PathBuf,
        #[arg(long, value_name = "FILE")]
        ca_key: PathBuf,
        /// A host name or address it is for; may be given several times.
        #[arg(long, value_name = "NAME", required = true)]
        name: Vec<String>,
        #[arg(long, value_name = "DAYS", default_value_t = 365)]
        days: u32,
        #[command(flatten)]
        output: CertificateOutput,
    },
}

#[derive(Args, Debug)]
pub struct CertificateOutput {
    #[arg(long, value_name = "FILE")]
    pub out_certificate: PathBuf,
    #[arg(long, value_name = "FILE")]
    pub out_key: PathBuf,
    /// Do nothing when both files are there already.
    #[arg(long)]
    pub if_missing: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_serve_and_config_may_stand_anywhere() {
        let cli = Cli::try_parse_from(["chappe", "--config", "a.toml"]).expect("valid");
        assert!(cli.command.is_none());
        let cli = Cli::try_parse_from(["chappe", "user", "list", "--config", "a.toml"]).expect("valid");
        assert_eq!(cli.config, Some(PathBuf::from("a.toml")));
    }
}
