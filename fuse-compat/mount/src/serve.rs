// SPDX-License-Identifier: GPL-2.0-only
//! The serving process: opens the volume, mounts, serves, closes.

use crate::attach::attach;
use crate::cli::{Process, Request};
use crate::daemon;
use crate::options::Plan;
use crate::server::Server;
use crate::stop::{self, Closer};
use aegisfs_engine::{Error, Fs, MODE_DIR, MODE_TYPE, ROOT_INO};
use aegisfs_tools::{logging, report, Access, Background, Failure, FileDevice};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Serves until the volume is unmounted.
///
/// # Errors
/// With the reason and, where there is one, a way out.
pub fn run(request: &Request, plan: &Plan, process: Process) -> Result<ExitCode, Failure> {
    let daemon = process == Process::Daemon;
    let log = if daemon {
        logging::Target::System
    } else {
        logging::Target::Stderr
    };
    logging::init("aegisfs-fuse", request.verbose, log);
    die_on_panic();
    stop::block_signals().map_err(|e| Failure::new(format!("cannot block signals: {e}")))?;
    let point = mount_point(&request.directory)?;
    let fs: Arc<Fs> = Arc::from(open(&request.device, plan)?);
    let closer = Arc::new(Closer::new(Arc::clone(&fs)));
    let source = plan
        .fsname
        .clone()
        .unwrap_or_else(|| shown_source(&request.device));
    let served = check_root(&fs, &request.device)
        .and_then(|()| serve(&source, plan, &point, daemon, &fs, &closer));
    // Also after a mount that failed: the journal may have been replayed.
    let last_checkpoint = closer.close();
    served?;
    last_checkpoint
        .map_err(|e| report::engine(format!("{source}: the last checkpoint failed"), e))?;
    Ok(ExitCode::SUCCESS)
}

fn serve(
    source: &str,
    plan: &Plan,
    point: &Path,
    daemon: bool,
    fs: &Arc<Fs>,
    closer: &Arc<Closer>,
) -> Result<(), Failure> {
    if daemon {
        daemon::detach().map_err(|e| Failure::new(format!("cannot become a daemon: {e}")))?;
    }
    let connection = attach(source, point, plan)?;
    let server = Server::new(Arc::clone(fs), connection.clone(), plan);
    let failed =
        |what: &str, e: &std::io::Error| Failure::new(format!("{}: {what}: {e}", point.display()));
    let mut background =
        Background::start(Arc::clone(fs)).map_err(|e| failed("cannot start a thread", &e))?;
    stop::listen(point.to_owned(), Arc::clone(closer))
        .map_err(|e| failed("cannot start a thread", &e))?;
    if daemon {
        daemon::report_ready().map_err(|e| failed("cannot report readiness", &e))?;
    }
    let ended = connection.serve(&server, threads());
    server.finish();
    background.stop(fs);
    ended.map_err(|e| failed("serving ended", &e))
}

/// Threads that answer requests: more than processors, because a thread waits while its fsync or
/// read is under way.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (2 * processors).clamp(8, 32)
}

/// Opens and claims the device, replays the journal.
fn open(path: &Path, plan: &Plan) -> Result<Box<Fs>, Failure> {
    let access = if plan.engine.read_only {
        Access::Read
    } else {
        Access::Write
    };
    let device = FileDevice::open(path, access)?;
    device
        .into_pool()
        .and_then(|pool| Fs::mount(pool, plan.engine))
        .and_then(|fs| fs.quota_enforce(plan.quota).map(|()| fs))
        .map_err(|e| report::engine(format!("cannot mount {}", path.display()), e))
}

/// Without a root directory every access to the mount would fail: it is better not made. The module
/// refuses such volumes too.
fn check_root(fs: &Fs, device: &Path) -> Result<(), Failure> {
    let root = match fs.getattr(ROOT_INO) {
        Ok(attr) if attr.mode & MODE_TYPE == MODE_DIR => return Ok(()),
        Ok(_) | Err(Error::Stale) => Error::Corrupt,
        Err(e) => e,
    };
    let what = format!("cannot mount {}: its root directory", device.display());
    Err(report::engine(what, root))
}

fn mount_point(directory: &Path) -> Result<PathBuf, Failure> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(format!("cannot mount at {}: {e}", directory.display()))
    };
    let point = directory.canonicalize().map_err(|e| failed(&e))?;
    if !point.is_dir() {
        return Err(failed(&"not a directory"));
    }
    Ok(point)
}

/// The path that `findmnt` and `aegisfs volume info` can open, whatever the current directory.
fn shown_source(device: &Path) -> String {
    let path = device.canonicalize().unwrap_or_else(|_| device.to_owned());
    path.to_string_lossy().into_owned()
}

/// A panic is a bug in a place that nobody knows: stop before anything more is written. What was
/// synced is safe, and the next mount replays the journal.
fn die_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tracing::error!("bug: {info}: stopping");
        default(info);
        std::process::abort();
    }));
}
