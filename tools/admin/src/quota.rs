// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs quota`: usage and limits of users, groups and projects, of a mounted volume through
//! `quotactl(2)`, of another one through the engine.

use crate::cli::{Quota as Verb, QuotaLimits, QuotaWho, Style};
use crate::volume;
use aegisfs_engine::{Error, Fs, Grace, Quota, QuotaType, SetQuota};
use aegisfs_tools::quotactl::Mounted;
use aegisfs_tools::{mounts, output, time, Failure};
use serde::Serialize;
use std::path::Path;

pub fn run(verb: &Verb, style: Style) -> anyhow::Result<()> {
    match verb {
        Verb::Report {
            target,
            user,
            group,
            project,
        } => {
            let mut wanted = vec![];
            for (of, on) in QuotaType::ALL.into_iter().zip([user, group, project]) {
                if *on {
                    wanted.push(of);
                }
            }
            if wanted.is_empty() {
                wanted.extend(QuotaType::ALL);
            }
            report(target, &wanted, style)
        }
        Verb::Get { target, who } => get(target, who, style),
        Verb::Set {
            target,
            who,
            limits,
        } => set(target, who, limits),
        Verb::Grace {
            target,
            of,
            space,
            inodes,
        } => {
            let of = of.parse();
            let volume = Volume::open(target, false)?;
            let result = volume.set_grace(of, *space, *inodes);
            Ok(volume.close(result, target)?)
        }
    }
}

/// Where the quotas are.
enum Volume {
    Mounted(Mounted),
    Image(Box<Fs>),
}

/// Why something of quota failed.
enum Fault {
    System(std::io::Error),
    Engine(Error),
}

impl From<std::io::Error> for Fault {
    fn from(e: std::io::Error) -> Self {
        Self::System(e)
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Self::Engine(e)
    }
}

impl Fault {
    fn about(self, target: &Path) -> Failure {
        let what = format!("quota of {}", target.display());
        let not_counted = match &self {
            Self::System(e) => {
                matches!(e.raw_os_error(), Some(nix::libc::ENOSYS | nix::libc::ESRCH))
            }
            Self::Engine(e) => *e == Error::Unsupported,
        };
        let failure = Failure::new(match self {
            _ if not_counted => format!("{what}: usage is not counted on this volume"),
            Self::System(e) => format!("{what}: {e}"),
            Self::Engine(e) => format!("{what}: {e}"),
        });
        if not_counted {
            failure.hint("mount it once with usrquota, grpquota or prjquota")
        } else {
            failure
        }
    }
}

impl Volume {
    fn open(target: &Path, read_only: bool) -> Result<Self, Failure> {
        let device = volume::device_of(target)?;
        let mounted = mounts::of(&device).unwrap_or_default();
        if mounted.iter().any(|m| m.kind == "aegisfs") {
            let mounted = Mounted::new(&device).map_err(|e| Fault::from(e).about(target))?;
            return Ok(Self::Mounted(mounted));
        }
        if !mounted.is_empty() {
            return Err(Failure::new(format!(
                "{} is mounted through FUSE, which has no calls for quota",
                target.display()
            ))
            .hint("unmount it first"));
        }
        Ok(Self::Image(volume::mount(&device, read_only)?))
    }

    fn next(&self, of: QuotaType, id: u32) -> Result<Option<(u32, Quota)>, Fault> {
        Ok(match self {
            Self::Mounted(m) => m.next(of, id)?,
            Self::Image(fs) => fs.quota_next(of, id)?,
        })
    }

    fn quota(&self, of: QuotaType, id: u32) -> Result<Quota, Fault> {
        Ok(match self {
            Self::Mounted(m) => m.quota(of, id)?,
            Self::Image(fs) => fs.quota(of, id)?,
        })
    }

    fn set(&self, of: QuotaType, id: u32, set: &SetQuota) -> Result<(), Fault> {
        match self {
            Self::Mounted(m) => m.set(of, id, set)?,
            Self::Image(fs) => fs.set_quota(of, id, set)?,
        }
        Ok(())
    }

    fn grace(&self, of: QuotaType) -> Result<Grace, Fault> {
        Ok(match self {
            Self::Mounted(m) => m.grace(of)?,
            Self::Image(fs) => fs.quota_state().grace[of as usize],
        })
    }

    fn set_grace(
        &self,
        of: QuotaType,
        space: Option<u32>,
        inodes: Option<u32>,
    ) -> Result<(), Fault> {
        match self {
            Self::Mounted(m) => m.set_grace(of, space, inodes)?,
            Self::Image(fs) => fs.set_grace(of, space, inodes)?,
        }
        Ok(())
    }

    /// Makes a change of an image durable.
    fn close(self, result: Result<(), Fault>, target: &Path) -> Result<(), Failure> {
        let closed = match self {
            Self::Mounted(_) => Ok(()),
            Self::Image(fs) => fs.unmount().map_err(Fault::from),
        };
        result.and(closed).map_err(|f| f.about(target))
    }
}

/// One line of a report.
#[derive(Serialize)]
struct Row {
    #[serde(rename = "type")]
    of: &'static str,
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    space_used: u64,
    space_soft: u64,
    space_hard: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    space_deadline: Option<String>,
    inodes_used: u64,
    inodes_soft: u64,
    inodes_hard: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes_deadline: Option<String>,
}

impl Row {
    fn new(of: QuotaType, id: u32, q: &Quota) -> Self {
        let date = |seconds: i64| (seconds != 0).then(|| time::rfc3339(seconds));
        Self {
            of: of.as_str(),
            id,
            name: name_of(of, id),
            space_used: q.space,
            space_soft: q.space_soft,
            space_hard: q.space_hard,
            space_deadline: date(q.space_deadline),
            inodes_used: q.inodes,
            inodes_soft: q.inodes_soft,
            inodes_hard: q.inodes_hard,
            inodes_deadline: date(q.inodes_deadline),
        }
    }

    fn cells(&self, style: Style) -> Vec<String> {
        let limit = |n: u64, text: String| if n == 0 { "-".into() } else { text };
        let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        vec![
            self.of.into(),
            self.id.to_string(),
            or(&self.name),
            style.bytes(self.space_used),
            limit(self.space_soft, style.bytes(self.space_soft)),
            limit(self.space_hard, style.bytes(self.space_hard)),
            or(&self.space_deadline),
            self.inodes_used.to_string(),
            limit(self.inodes_soft, self.inodes_soft.to_string()),
            limit(self.inodes_hard, self.inodes_hard.to_string()),
            or(&self.inodes_deadline),
        ]
    }
}

const HEADING: [&str; 11] = [
    "TYPE", "ID", "NAME", "SPACE", "SOFT", "HARD", "UNTIL", "INODES", "SOFT", "HARD", "UNTIL",
];

fn name_of(of: QuotaType, id: u32) -> Option<String> {
    match of {
        QuotaType::User => {
            let user = nix::unistd::User::from_uid(id.into()).ok()??;
            Some(user.name)
        }
        QuotaType::Group => {
            let group = nix::unistd::Group::from_gid(id.into()).ok()??;
            Some(group.name)
        }
        QuotaType::Project => None,
    }
}

fn report(target: &Path, wanted: &[QuotaType], style: Style) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Times {
        #[serde(rename = "type")]
        of: &'static str,
        space_grace_seconds: u32,
        inodes_grace_seconds: u32,
    }
    #[derive(Serialize)]
    struct Document {
        grace: Vec<Times>,
        quotas: Vec<Row>,
    }
    let volume = Volume::open(target, true)?;
    let failed = |f: Fault| f.about(target);
    let mut document = Document {
        grace: vec![],
        quotas: vec![],
    };
    for of in wanted {
        let grace = volume.grace(*of).map_err(failed)?;
        document.grace.push(Times {
            of: of.as_str(),
            space_grace_seconds: grace.space,
            inodes_grace_seconds: grace.inodes,
        });
        let mut next = Some(0);
        while let Some(from) = next {
            let Some((id, quota)) = volume.next(*of, from).map_err(failed)? else {
                break;
            };
            document.quotas.push(Row::new(*of, id, &quota));
            next = id.checked_add(1);
        }
    }
    if style.json {
        output::json(&document)?;
    } else {
        let rows: Vec<_> = document.quotas.iter().map(|r| r.cells(style)).collect();
        output::table(&HEADING, &rows)?;
    }
    Ok(())
}

fn get(target: &Path, who: &QuotaWho, style: Style) -> anyhow::Result<()> {
    let (of, id) = identify(who)?;
    let quota = Volume::open(target, true)?.quota(of, id);
    let row = Row::new(of, id, &quota.map_err(|f| f.about(target))?);
    if style.json {
        output::json(&row)?;
    } else {
        output::table(&HEADING, &[row.cells(style)])?;
    }
    Ok(())
}

fn set(target: &Path, who: &QuotaWho, limits: &QuotaLimits) -> anyhow::Result<()> {
    let (of, id) = identify(who)?;
    let set = SetQuota {
        space_hard: limits.space_hard,
        space_soft: limits.space_soft,
        inodes_hard: limits.inodes_hard,
        inodes_soft: limits.inodes_soft,
        ..SetQuota::default()
    };
    let volume = Volume::open(target, false)?;
    let result = volume.set(of, id, &set);
    Ok(volume.close(result, target)?)
}

/// Type and number of whom the options name.
fn identify(who: &QuotaWho) -> Result<(QuotaType, u32), Failure> {
    let unknown = |kind: &str, name: &str| Failure::new(format!("there is no {kind} {name}"));
    if let Some(name) = &who.user {
        let id = name.parse().ok();
        let found = || nix::unistd::User::from_name(name).ok().flatten();
        let id = id.or_else(|| Some(found()?.uid.as_raw()));
        return Ok((QuotaType::User, id.ok_or_else(|| unknown("user", name))?));
    }
    if let Some(name) = &who.group {
        let id = name.parse().ok();
        let found = || nix::unistd::Group::from_name(name).ok().flatten();
        let id = id.or_else(|| Some(found()?.gid.as_raw()));
        return Ok((QuotaType::Group, id.ok_or_else(|| unknown("group", name))?));
    }
    Ok((QuotaType::Project, who.project.unwrap_or(0)))
}
