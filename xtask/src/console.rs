// SPDX-License-Identifier: GPL-2.0-only
//! Finds kernel reports of trouble in a console log.

/// Beginnings of reports. Each is matched anywhere in a line.
const REPORTS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "kernel BUG at",
    "rust_kernel: panicked",
    "panicked at",
    "KASAN:",
    "UBSAN:",
    "INFO: task ",
    "possible recursive locking",
    "rcu: INFO:",
    "possible circular locking",
    "unreferenced object",
    "suspected memory leaks",
    "soft lockup",
    "hard LOCKUP",
    "Call Trace:",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "VFS: Busy inodes",
    "Objects remaining",
    "aegis-guest:",
];

/// Lines shown of each report.
const SHOWN: usize = 60;

/// The first report in a log, with the lines that follow it.
pub fn first_report(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().collect();
    let first = lines
        .iter()
        .position(|line| REPORTS.iter().any(|start| line.contains(start)))?;
    let last = lines.len().min(first + SHOWN);
    Some(lines[first..last].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_found_and_a_quiet_boot_is_not() {
        let quiet = "[    0.1] Linux version 7\n[    1.0] aegisfs: mounted\n";
        assert_eq!(first_report(quiet), None);
        let log = format!("{quiet}[ 2.0] WARNING: CPU: 0 PID: 1 at fs/inode.c:1\n[ 2.0] RIP\n");
        assert!(first_report(&log).unwrap().starts_with("[ 2.0] WARNING"));
        assert!(first_report("[ 9] INFO: task mount:12 blocked for more than 120 s").is_some());
    }
}
