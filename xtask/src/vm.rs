// SPDX-License-Identifier: GPL-2.0-only
//! A virtual machine that runs commands, and that can lose its power at any moment.
//!
//! Boot: QEMU (`qemu`) or a User-mode Linux (`uml`) loads the kernel and the initramfs; its init (`qemu/guest`) mounts the root image
//! and answers on a virtio-serial port. `Vm::start` sends a command, `Vm::next` returns what it
//! prints and how it ends. Dropping a `Vm` cuts its power.
//!
//! The kernel's console goes to a file. After every command the log is searched for reports of
//! trouble (`console`): a run with an oops in it has failed, whatever the command said.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use aegisfs_guest::proto::{self, FromGuest, ToGuest};
use anyhow::{bail, ensure, Context, Result};

use crate::kernel::{Choice, Kernel};
use crate::qemu::{self, Accelerator};
use crate::toolchain::Toolchain;
use crate::{console, paths, ui, uml};

/// Reports go to the console, and a kernel that has oopsed ends the VM at once.
pub const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 oops=panic";

/// A boot takes some seconds, that of the debug kernel a minute; other work on the machine may slow it
/// down.
fn boot_timeout(config: &Config) -> Duration {
    Duration::from_secs(match config.kernel.choice {
        Choice::Debug => 300,
        Choice::Stock | Choice::Uml => 90,
    })
}
/// Nothing under test runs before the VM is up: when that fails, it is emulation's fault, seldom
/// and by chance.
const BOOT_ATTEMPTS: u32 = 3;
/// A virtual machine monitor inside a virtual machine may accept the first instructions and then
/// get nowhere.
const KVM_PROBE_TIMEOUT: Duration = Duration::from_secs(20);
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(60);

const RUN_PREFIX: &str = "aegisfs-vm-";

#[derive(Debug, Clone)]
pub enum Disk {
    /// Empty, and gone with the VM.
    Scratch { size: u64 },
    /// As `Scratch`, but the host has all of its blocks from the start, as a real disk has, and keeps
    /// them: discards do nothing. QEMU can limit how many bytes it reads and writes in a second.
    Allocated { size: u64, rate: Option<u64> },
    /// A file of the host, by its absolute path.
    File { path: PathBuf, read_only: bool },
    /// A file of the host; every write and flush is also recorded in a log (see `write_log`).
    Logged { path: PathBuf, log: PathBuf },
}

#[derive(Debug, Clone)]
pub struct Config {
    pub toolchain: Toolchain,
    pub kernel: Kernel,
    pub initramfs: PathBuf,
    pub root_image: PathBuf,
    pub cpus: u32,
    pub memory_mib: u32,
    pub disks: Vec<Disk>,
    /// The kernel's own defaults instead of what makes emulation fast.
    pub stock_command_line: bool,
    /// Connects a terminal of the VM with this one's.
    pub interactive: bool,
    /// Where scratch disks lie; in none, where temporary files do.
    pub directory: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
enum Machine {
    Qemu(Accelerator),
    Uml,
}

/// What happened in the VM.
#[derive(Debug)]
pub enum Event {
    Output(Vec<u8>),
    Exit(i32),
    /// The time was over.
    Timeout,
    /// The VM has ended: it crashed, or its power was cut.
    Gone,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Exit(i32),
    Timeout,
    /// The VM ended before the command did.
    Gone,
    /// The kernel reported trouble.
    Report(String),
}

pub struct Vm {
    /// The process that it runs in.
    machine: Child,
    directory: RunDirectory,
    port: UnixStream,
    events: Receiver<FromGuest>,
}

/// Sockets, console log and scratch disks of one VM.
struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// In `base`, or where large temporary files belong.
    fn create(base: Option<&Path>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // A short path, since socket names may have 107 bytes, and on a disk, not in memory.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = match base {
            Some(base) => base.to_owned(),
            None => std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from),
        };
        remove_abandoned(&base);
        let path = base.join(format!("{RUN_PREFIX}{}-{number}", std::process::id()));
        paths::remove_tree(&path)?;
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(RunDirectory { path })
    }
}

/// Directories of runs that were killed hold scratch disks.
fn remove_abandoned(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(RUN_PREFIX)?.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The kernel did not come up.
#[derive(Debug)]
struct BootFailure(String);

impl fmt::Display for BootFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BootFailure {}

impl Vm {
    /// Starts the VM and waits until it takes commands.
    pub fn boot(config: &Config) -> Result<Vm> {
        if config.kernel.choice == Choice::Uml {
            return Self::boot_with(config, Machine::Uml, boot_timeout(config));
        }
        match qemu::chosen_accelerator()? {
            Some(accelerator) => Self::boot_again_and_again(config, accelerator),
            None => {
                // Only a boot shows whether hardware virtualisation works here.
                let kvm = Machine::Qemu(Accelerator::Kvm);
                let accelerator = match Self::boot_with(config, kvm, KVM_PROBE_TIMEOUT) {
                    Ok(vm) => {
                        qemu::remember_accelerator(Accelerator::Kvm)?;
                        return Ok(vm);
                    }
                    Err(_) => Accelerator::Tcg,
                };
                qemu::remember_accelerator(accelerator)?;
                Self::boot_again_and_again(config, accelerator)
            }
        }
    }

    fn boot_again_and_again(config: &Config, accelerator: Accelerator) -> Result<Vm> {
        let machine = Machine::Qemu(accelerator);
        let timeout = boot_timeout(config);
        for _ in 1..BOOT_ATTEMPTS {
            match Self::boot_with(config, machine, timeout) {
                Err(error) if error.is::<BootFailure>() => {
                    ui::warn(format!("booting again: {error}"));
                }
                other => return other,
            }
        }
        Self::boot_with(config, machine, timeout)
    }

    fn boot_with(config: &Config, machine: Machine, timeout: Duration) -> Result<Vm> {
        let directory = RunDirectory::create(config.directory.as_deref())?;
        let start = Instant::now();
        let (machine, port) = match machine {
            Machine::Qemu(accelerator) => start_qemu(config, accelerator, &directory, timeout)?,
            Machine::Uml => start_uml(config, &directory)?,
        };
        port.set_nonblocking(false)?;
        let mut reader = BufReader::with_capacity(256 << 10, port.try_clone()?);
        let (sender, events) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok(frame) = FromGuest::receive(&mut reader) {
                if sender.send(frame).is_err() {
                    break;
                }
            }
        });
        let mut vm = Vm {
            machine,
            directory,
            port,
            events,
        };
        match vm
            .events
            .recv_timeout(timeout.saturating_sub(start.elapsed()))
        {
            Ok(FromGuest::Ready(_)) => Ok(vm),
            Ok(FromGuest::Failed(why)) => bail!("the VM's init failed: {}", why.trim()),
            Ok(other) => bail!("the VM's agent began with {other:?}"),
            Err(error) => {
                let what = match error {
                    RecvTimeoutError::Timeout => format!("no answer in {} s", timeout.as_secs()),
                    RecvTimeoutError::Disconnected => "it ended".to_owned(),
                };
                let _ = vm.wait_for_end(Duration::from_secs(1));
                let errors = fs::read_to_string(vm.directory.path.join("machine.log"))?;
                let log = vm.console_log() + &errors;
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(30)..].join("\n");
                let text = format!("the VM did not boot: {what}; the end of its console:\n{tail}");
                Err(BootFailure(text).into())
            }
        }
    }

    /// Starts a command. One runs at a time.
    pub fn start(&mut self, argv: &[&str]) -> Result<()> {
        let argv = argv.iter().map(|text| (*text).to_owned()).collect();
        self.send(&ToGuest::Run(proto::Command {
            argv,
            env: Vec::new(),
        }))
    }

    /// Starts a line of shell.
    pub fn start_shell(&mut self, script: &str) -> Result<()> {
        self.start(&["bash", "-c", script])
    }

    /// The next thing that the running command does.
    pub fn next(&mut self, timeout: Duration) -> Event {
        match self.events.recv_timeout(timeout) {
            Ok(FromGuest::Output(bytes)) => Event::Output(bytes),
            Ok(FromGuest::Exit(status)) => Event::Exit(status),
            Ok(FromGuest::Ready(_) | FromGuest::Failed(_))
            | Err(RecvTimeoutError::Disconnected) => Event::Gone,
            Err(RecvTimeoutError::Timeout) => Event::Timeout,
        }
    }

    /// Runs a command to its end, handing on what it prints.
    pub fn run(
        &mut self,
        argv: &[&str],
        timeout: Duration,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<Outcome> {
        self.start(argv)?;
        self.finish(timeout, output)
    }

    /// Waits for the running command, handing on what it prints.
    pub fn finish(&mut self, timeout: Duration, output: &mut dyn FnMut(&[u8])) -> Result<Outcome> {
        let deadline = Instant::now() + timeout;
        let outcome = loop {
            match self.next(deadline.saturating_duration_since(Instant::now())) {
                Event::Output(bytes) => output(&bytes),
                Event::Exit(status) => break Outcome::Exit(status),
                Event::Timeout => break Outcome::Timeout,
                Event::Gone => break Outcome::Gone,
            }
        };
        if outcome == Outcome::Gone {
            // The console's last lines may still be on their way into the file.
            let _ = self.wait_for_end(Duration::from_secs(5));
        }
        Ok(match self.report() {
            Some(report) => Outcome::Report(report),
            None => outcome,
        })
    }

    /// Runs a line of shell, which must succeed, and returns what it printed.
    pub fn shell(&mut self, script: &str, timeout: Duration) -> Result<String> {
        let mut text = Vec::new();
        let outcome = self.run(&["bash", "-c", script], timeout, &mut |bytes| {
            text.extend_from_slice(bytes)
        })?;
        let text = String::from_utf8_lossy(&text).into_owned();
        match outcome {
            Outcome::Exit(0) => Ok(text),
            Outcome::Exit(status) => {
                bail!(
                    "in the VM '{script}' failed with status {status}:\n{}",
                    text.trim_end()
                )
            }
            Outcome::Timeout => bail!(
                "in the VM '{script}' did not end within {} s; it printed:\n{}",
                timeout.as_secs(),
                text.trim_end()
            ),
            Outcome::Gone => bail!("the VM ended during '{script}':\n{}", self.console_log()),
            Outcome::Report(report) => {
                bail!("the kernel reported trouble during '{script}':\n{report}")
            }
        }
    }

    /// Cuts the power: what the VM had not written to its disks is lost.
    pub fn cut_power(mut self) -> Result<()> {
        self.machine.kill().context("kill the VM")?;
        self.machine.wait().context("wait for the VM")?;
        Ok(())
    }

    /// Stops the processors, lets the disks end what they are doing, then cuts the power: after
    /// this the log of a [`Disk::Logged`] is whole.
    pub fn freeze_and_cut_power(self) -> Result<()> {
        let mut monitor = UnixStream::connect(self.directory.path.join("monitor"))
            .context("connect to QEMU's monitor")?;
        monitor.set_read_timeout(Some(POWER_OFF_TIMEOUT))?;
        let mut answers = BufReader::new(monitor.try_clone()?).lines();
        let mut ask = |command: &str| -> Result<()> {
            writeln!(monitor, r#"{{"execute":"{command}"}}"#)?;
            loop {
                let line = answers.next().context("QEMU's monitor ended")??;
                if line.contains(r#""return""#) {
                    return Ok(());
                }
                ensure!(
                    !line.contains(r#""error""#),
                    "QEMU refused '{command}': {line}"
                );
            }
        };
        ask("qmp_capabilities")?;
        ask("stop")?;
        self.cut_power()
    }

    /// Unmounts the disks and powers off.
    pub fn shut_down(mut self) -> Result<()> {
        self.send(&ToGuest::PowerOff)?;
        self.wait_for_end(POWER_OFF_TIMEOUT)
            .context("power off the VM")?;
        match self.report() {
            Some(report) => bail!("the kernel reported trouble:\n{report}"),
            None => Ok(()),
        }
    }

    pub fn console_log(&self) -> String {
        let bytes = fs::read(self.directory.path.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The first report of trouble that the kernel has made so far.
    pub fn report(&self) -> Option<String> {
        console::first_report(&self.console_log())
    }

    /// Waits for the VM to end by itself.
    pub fn wait_for_end(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.machine.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "still running after {} s",
                timeout.as_secs()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn send(&mut self, message: &ToGuest) -> Result<()> {
        message.send(&mut self.port).with_context(|| {
            let report = self
                .report()
                .unwrap_or_else(|| "no report on its console".to_owned());
            format!("the VM does not listen any more: {report}")
        })
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.machine.kill();
        let _ = self.machine.wait();
    }
}

/// Starts QEMU and returns it with the socket that the VM's agent talks over.
fn start_qemu(
    config: &Config,
    accelerator: Accelerator,
    directory: &RunDirectory,
    timeout: Duration,
) -> Result<(Child, UnixStream)> {
    let socket = directory.path.join("agent");
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("make the socket {}", socket.display()))?;
    let mut command = machine_command(config, directory, &directory.path)?;
    command
        .arg("qemu-system-x86_64")
        .args(qemu::arguments(config, accelerator, &directory.path)?);
    let (stdin, stdout) = match config.interactive {
        true => (Stdio::inherit(), Stdio::inherit()),
        false => (Stdio::null(), Stdio::null()),
    };
    let errors = directory.path.join("machine.log");
    command
        .stdin(stdin)
        .stdout(stdout)
        .stderr(File::create(&errors)?);
    let mut machine = command.spawn().context("start QEMU")?;
    let start = Instant::now();
    listener.set_nonblocking(true)?;
    loop {
        if let Ok((port, _)) = listener.accept() {
            return Ok((machine, port));
        }
        if let Some(status) = machine.try_wait()? {
            let text = fs::read_to_string(&errors).unwrap_or_default();
            bail!("QEMU did not start ({status}): {}", text.trim());
        }
        if start.elapsed() > timeout {
            let _ = machine.kill();
            bail!("QEMU did not connect within {} s", timeout.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As `start_qemu`, for a kernel that is a program.
fn start_uml(config: &Config, directory: &RunDirectory) -> Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = machine_command(config, directory, Path::new(uml::MEMORY))?;
    command
        .arg(&config.kernel.image)
        .args(uml::arguments(config, &directory.path)?)
        .stdin(OwnedFd::from(theirs))
        .stdout(File::create(directory.path.join("machine.log"))?)
        .stderr(File::create(directory.path.join("console"))?);
    Ok((command.spawn().context("start the kernel")?, ours))
}

/// What runs a VM: it must not outlive this process, even when that is killed.
fn machine_command(config: &Config, directory: &RunDirectory, temporary: &Path) -> Result<Command> {
    let mut command = config.toolchain.command_with(
        &directory.path,
        "setpriv",
        temporary,
        &directories(config, &directory.path)?,
    )?;
    command.args(["--pdeathsig", "KILL", "--"]);
    Ok(command)
}

/// The directories that QEMU has to see besides those of the toolchain.
fn directories(config: &Config, own: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![own.to_owned()];
    for disk in &config.disks {
        let files: &[&PathBuf] = match disk {
            Disk::Scratch { .. } | Disk::Allocated { .. } => &[],
            Disk::File { path, .. } => &[path],
            Disk::Logged { path, log } => &[path, log],
        };
        for file in files {
            let parent = file.parent().context("a disk image is in a directory")?;
            found.push(parent.to_owned());
        }
    }
    Ok(found)
}

pub fn make_sparse(path: &Path, size: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.set_len(size)
        .with_context(|| format!("make {} {size} bytes long", path.display()))
}

/// A file without holes, and of which each page was written once: where this machine is a virtual one, the first
/// use of memory is slow, and who writes to places that nobody used before would pay for it.
pub fn make_allocated(path: &Path, size: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    std::io::copy(&mut std::io::repeat(0).take(size), &mut &file)
        .with_context(|| format!("write {size} bytes to {}", path.display()))?;
    Ok(())
}
