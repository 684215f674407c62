// SPDX-License-Identifier: GPL-2.0-only
//! Process 1 of the test VM: boots into the root image, then runs what the host asks for.
//!
//! One command at a time, in a process group of its own, its standard output and error in one
//! pipe. The agent never exits: every way out of it is a power-off.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyhow::{bail, Context, Result};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::boot;
use aegisfs_guest::proto::{self, FromGuest, ToGuest};

/// A command's children may keep its output open: how long to wait for them once it has exited.
const DRAIN: Duration = Duration::from_secs(2);

/// The port takes whole frames from several threads.
type Port = Arc<Mutex<File>>;

pub fn main() -> ! {
    if let Err(error) = run() {
        // The console is all there is when the port failed; the host watches it.
        let text = format!("aegis-guest: {error:#}\n");
        let _ = fs::write("/dev/kmsg", &text);
        if let Ok(mut port) = open_port() {
            let _ = FromGuest::Failed(text).send(&mut port);
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    power_off()
}

fn run() -> Result<()> {
    boot::mount_kernel_filesystems()?;
    boot::enter_root_image()?;
    let _ = rustix::system::sethostname(b"aegis-guest");
    let environment = environment()?;
    let mut commands = open_port()?;
    boot::start_processors()?;
    let port: Port = Arc::new(Mutex::new(commands.try_clone()?));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("kernel release")?;
    send(&port, &FromGuest::Ready(release.trim().to_owned()));
    loop {
        match ToGuest::receive(&mut commands).context("read from the host")? {
            ToGuest::Run(command) => {
                let (port, environment) = (port.clone(), environment.clone());
                std::thread::spawn(move || {
                    let status = execute(&command, &environment, &port);
                    let status = status.unwrap_or_else(|error| {
                        let text = format!("aegis-guest: {error:#}\n");
                        send(&port, &FromGuest::Output(text.into_bytes()));
                        127
                    });
                    send(&port, &FromGuest::Exit(status));
                });
            }
            ToGuest::PowerOff => return Ok(()),
        }
    }
}

fn environment() -> Result<BTreeMap<String, String>> {
    let mut variables: BTreeMap<String, String> = [
        ("HOME", "/root"),
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("LC_ALL", "C.UTF-8"),
        ("TERM", "linux"),
        // There is no udev in the VM that device-mapper could wait for.
        ("DM_DISABLE_UDEV", "1"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    for (index, disk) in boot::test_disks()?.iter().enumerate() {
        variables.insert(
            format!("AEGIS_DISK{}", index + 1),
            disk.display().to_string(),
        );
    }
    Ok(variables)
}

/// The line that the kernel's command line names, or the virtio-serial port by its name. The node
/// can follow the driver by some moments.
fn open_port() -> Result<File> {
    if let Some(line) = std::env::var_os("AEGIS_PORT") {
        return open_line(Path::new(&line));
    }
    for _ in 0..500 {
        if let Some(device) = find_port() {
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&device)
                .with_context(|| format!("open {}", device.display()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("no virtio-serial port named {}", proto::PORT_NAME)
}

/// A terminal line that carries frames: nothing is echoed or translated.
fn open_line(path: &Path) -> Result<File> {
    let line = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    let mut mode = rustix::termios::tcgetattr(&line).context("the line's mode")?;
    mode.make_raw();
    rustix::termios::tcsetattr(&line, rustix::termios::OptionalActions::Now, &mode)?;
    Ok(line)
}

fn find_port() -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/class/virtio-ports").ok()?;
    for entry in entries.flatten() {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let device = PathBuf::from("/dev").join(entry.file_name());
        if name.trim() == proto::PORT_NAME && device.exists() {
            return Some(device);
        }
    }
    None
}

fn send(port: &Port, frame: &FromGuest) {
    // With the host gone there is nobody to tell.
    let _ = frame.send(&mut *port.lock().expect("no panic while it is held"));
}

fn execute(
    command: &proto::Command,
    environment: &BTreeMap<String, String>,
    port: &Port,
) -> Result<i32> {
    let (program, arguments) = command.argv.split_first().context("empty command")?;
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("pipe")?;
    let mut child = Command::new(program);
    child
        .args(arguments)
        .env_clear()
        .envs(environment)
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/root")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(writer.as_fd().try_clone_to_owned()?)
        .stderr(writer);
    let child = child
        .spawn()
        .with_context(|| format!("start {program}"))?
        .id();
    let pid = Pid::from_raw(child as i32).context("process number")?;
    let ended = Arc::new((Mutex::new(false), Condvar::new()));
    let pump = {
        let (port, ended) = (port.clone(), ended.clone());
        move || {
            forward(reader, &port);
            *ended.0.lock().expect("no panic while it is held") = true;
            ended.1.notify_all();
        }
    };
    std::thread::spawn(pump);
    let status = reap_until(pid)?;
    // The command's own output is in the pipe by now; a daemon that it left may hold it open.
    let (flag, signal) = &*ended;
    let flag = flag.lock().expect("no panic while it is held");
    let _ = signal.wait_timeout_while(flag, DRAIN, |ended| !*ended);
    Ok(status)
}

fn forward(reader: OwnedFd, port: &Port) {
    let mut reader = File::from(reader);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        send(port, &FromGuest::Output(buffer[..count].to_vec()));
    }
}

/// Process 1 inherits orphans: reaps them on the way.
fn reap_until(wanted: Pid) -> Result<i32> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == wanted => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => code,
                    (None, Some(signal)) => 128 + signal,
                    (None, None) => 255,
                });
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!("wait: {error}"),
        }
    }
}

fn power_off() -> ! {
    kill_everything();
    boot::unmount_disks();
    rustix::fs::sync();
    let _ = std::io::stdout().flush();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Processes that hold files open would keep the disks mounted. Kernel threads ignore the signal.
fn kill_everything() {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if let Some(pid) = Pid::from_raw(pid).filter(|pid| *pid != Pid::INIT) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}
