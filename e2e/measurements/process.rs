//! What the kernel says of the operator's process.

use crate::stage::Cluster;
use std::time::{Duration, SystemTime};

/// The operator's process.
#[derive(Clone, Copy, Debug)]
pub struct Process(u32);

impl Process {
    pub fn operator(cluster: &Cluster) -> Self {
        let pid = cluster.control(&["operator", "pid"]).unwrap_or_else(|error| panic!("{error}"));
        Self(pid.trim().parse().unwrap())
    }

    fn read(self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.0)).unwrap_or_default()
    }

    /// A line of `/proc/PID/status` in MiB, for example `VmRSS`.
    pub fn memory(self, name: &str) -> f64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
        line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap_or(f64::NAN) / 1024.0
    }

    /// Processor time of all threads so far, user and system.
    pub fn processor_time(self) -> Duration {
        let mut sum = Duration::ZERO;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.0)).into_iter().flatten().flatten() {
            // Nanoseconds; /proc/PID/stat counts in steps of ten milliseconds.
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let spent = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default();
            sum += Duration::from_nanos(spent);
        }
        if sum.is_zero() { self.processor_ticks() } else { sum }
    }

    fn processor_ticks(self) -> Duration {
        let ticks: u64 = [13, 14].iter().map(|field| self.stat(*field)).sum();
        Duration::from_millis(ticks * 10)
    }

    /// When it was started, to about ten milliseconds.
    pub fn started(self) -> SystemTime {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split_whitespace().next().unwrap().parse().unwrap();
        let now = SystemTime::now();
        let since_boot = Duration::from_millis(self.stat(21) * 10);
        now - Duration::from_secs_f64(uptime).saturating_sub(since_boot)
    }

    /// A field of `/proc/PID/stat`, counted from zero.
    fn stat(self, field: usize) -> u64 {
        let text = self.read("stat");
        // The name of the program may hold anything.
        let rest = text.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        rest.split_whitespace().nth(field - 2).and_then(|word| word.parse().ok()).unwrap_or_default()
    }

    /// Waits until it has had nothing to do for a while: longer than a busy API server takes for an answer.
    pub async fn rests(self) {
        let mut quiet = 0;
        for _ in 0..120 {
            let before = self.processor_time();
            tokio::time::sleep(Duration::from_secs(2)).await;
            let worked = self.processor_time().saturating_sub(before) > Duration::from_millis(8);
            quiet = if worked { 0 } else { quiet + 1 };
            if quiet == 5 {
                return;
            }
        }
    }
}
