//! What a process uses, read from `/proc`: CPU seconds, memory, bytes written.
//!
//! CPU time is counted in ticks of 10 ms; a figure per sample needs runs of many million samples.

use anyhow::Context;
use serde::Serialize;

/// Ticks per second of the times in `/proc/PID/stat`: fixed at 100 for user space on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    /// CPU seconds in user mode.
    pub user: f64,
    /// CPU seconds in the kernel.
    pub system: f64,
    /// Resident memory now, in bytes.
    pub resident: u64,
    /// Most resident memory ever, in bytes.
    pub resident_peak: u64,
    /// Bytes it caused to be written to storage; 0 when the kernel does not let us see.
    pub written: u64,
}

impl Usage {
    /// Reads the usage of a process.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        Self::read(&pid.to_string()).with_context(|| format!("read what process {pid} uses"))
    }

    /// Reads the usage of this process.
    pub fn own() -> anyhow::Result<Self> {
        Self::read("self").context("read what this process uses")
    }

    fn read(pid: &str) -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let (user, system) = cpu_seconds(&stat).context("/proc stat has another shape than expected")?;
        let kib = |name| named_number(&status, name).unwrap_or(0) * 1024;
        Ok(Self {
            user,
            system,
            resident: kib("VmRSS:"),
            resident_peak: kib("VmHWM:"),
            written: named_number(&io, "write_bytes:").unwrap_or(0),
        })
    }

    /// CPU seconds together.
    pub fn cpu(&self) -> f64 {
        self.user + self.system
    }
}

/// The command name in field 2 may hold spaces and parentheses, so counting starts behind its last parenthesis.
fn cpu_seconds(stat: &str) -> Option<(f64, f64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut seconds = || fields.next()?.parse::<f64>().ok().map(|ticks| ticks / TICKS_PER_SECOND);
    Some((seconds()?, seconds()?))
}

fn named_number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 75 0 0 20";
        assert_eq!(cpu_seconds(stat), Some((2.5, 0.75)));
        assert_eq!(cpu_seconds("12 (x"), None);
    }

    #[test]
    fn the_own_process_uses_memory() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident > 1 << 20 && usage.resident_peak >= usage.resident);
    }
}
