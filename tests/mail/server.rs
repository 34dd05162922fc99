//! A mail server that is not ours: Python's aiosmtpd.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::deployment::Folder;

/// A free port.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The TLS identity of a mail server, and the login that it demands.
pub struct Secured {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// `name:password`
    pub login: String,
}

/// A running mail server.
pub struct MailServer {
    child: Child,
    pub port: u16,
    folder: Folder,
}

impl MailServer {
    pub fn start() -> Self {
        Self::start_on(free_port())
    }

    /// Starts a server that only speaks TLS and demands a login.
    pub fn start_over_tls(by: &Secured) -> Self {
        let (certificate, key) = (by.certificate.display().to_string(), by.key.display().to_string());
        Self::start_with(free_port(), &[certificate, key, by.login.clone()], "yes")
    }

    /// Starts a server that refuses addresses beyond ASCII.
    pub fn start_without_smtputf8() -> Self {
        Self::start_with(free_port(), &[], "no")
    }

    pub fn start_on(port: u16) -> Self {
        Self::start_with(port, &[], "yes")
    }

    fn start_with(port: u16, more: &[String], smtputf8: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let libraries = root.join("target/python");
        assert!(libraries.join("aiosmtpd").exists(), "run `cargo xtask test`, which installs it");
        let folder = Folder::new();
        let mut child = Command::new("python3")
            .arg(root.join("tests/mail/server.py"))
            .args([&port.to_string(), &folder.0.display().to_string()])
            .args(more)
            .env("PYTHONPATH", libraries)
            .env("SMTPUTF8", smtputf8)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, port, folder }
    }

    /// The mails that it has accepted, oldest first, as parsed by Python's own library.
    pub fn received(&self) -> Vec<Value> {
        let files = std::fs::read_dir(&self.folder.0).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> =
            files.filter(|file| file.extension().is_some_and(|extension| extension == "json")).collect();
        files.sort_unstable();
        files.iter().map(|file| serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()).collect()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
