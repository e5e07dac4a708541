//! A real control plane for one test, gone when the test is over.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of this checkout.
pub fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command to its end; standard output, or how it failed and all that it said.
pub fn run(command: &mut Command, input: Option<&str>) -> Result<String, String> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // Who has heard enough hangs up; what it said tells why.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }
}

fn launcher() -> Command {
    Command::new(repo().join("e2e/cluster"))
}

fn cache() -> PathBuf {
    std::env::var_os("COUNTERSIGN_E2E_CACHE").map_or_else(|| repo().join("target/e2e"), PathBuf::from)
}

/// One of the programs that e2e/cluster builds; built now if it never was.
pub fn tool(name: &str) -> PathBuf {
    let path = cache().join("bin").join(name);
    if !path.exists() {
        run(launcher().args(["build", "--only", name]), None).unwrap();
    }
    path
}

/// A running cluster.
pub struct Cluster {
    name: String,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts a cluster that no other test uses.
    pub fn start(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        run(launcher().args(["up", "--name", &name]), None).unwrap();
        let mut cluster = Self { name, kubeconfig: PathBuf::new() };
        let path = run(launcher().args(["kubeconfig", "--name", &cluster.name]), None).unwrap();
        cluster.kubeconfig = path.trim().into();
        cluster
    }

    /// A program of the cluster's, speaking to it as its admin.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(tool(program));
        command.current_dir(repo()).env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// `kubectl` as the cluster's admin.
    pub fn admin(&self, args: &[&str], input: Option<&str>) -> Result<String, String> {
        run(self.command("kubectl").args(args), input)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let ended = run(launcher().args(["down", "--name", &self.name]), None);
        if let (Err(error), false) = (ended, std::thread::panicking()) {
            panic!("{error}");
        }
    }
}
