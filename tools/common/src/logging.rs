// SPDX-License-Identifier: GPL-2.0-only
//! Log lines: to standard error for programs, to the system log for daemons.

use std::fmt::Write as _;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::Layer;

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard error, as `program: line`.
    Stderr,
    /// The system log; standard error where there is none.
    System,
}

/// Sets up logging for the process: warnings and errors, with each `-v` more.
pub fn init(program: &'static str, verbose: u8, target: Target) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let lines = Lines {
        program,
        target,
        system: OnceLock::new(),
    };
    // A second call (tests) keeps the first set-up.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(level))
        .try_init();
}

/// One line per event, without decoration that neither terminals nor log daemons need.
struct Lines {
    program: &'static str,
    target: Target,
    system: OnceLock<Option<UnixDatagram>>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let line = text.0;
        if self.target == Target::System {
            let socket = self.system.get_or_init(|| connect().ok());
            if let Some(socket) = socket {
                let message = format!(
                    "<{}>{}[{}]: {line}",
                    DAEMON_FACILITY | severity(*event.metadata().level()),
                    self.program,
                    std::process::id()
                );
                if socket.send(message.as_bytes()).is_ok() {
                    return;
                }
            }
        }
        eprintln!("{}: {line}", self.program);
    }
}

/// `LOG_DAEMON`.
const DAEMON_FACILITY: u8 = 3 << 3;

const fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect("/dev/log")?;
    // A log daemon that hangs must not hang the filesystem.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The event's message, followed by its fields.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
