// SPDX-License-Identifier: GPL-2.0-only
//! Mount options: the text after `-o`, read into what the engine, the kernel and the server need.
//!
//! `docs/man/aegisfs.5` describes them; an unknown option is an error, because an option that is
//! silently ignored is a promise broken.

use aegisfs_engine::{ErrorPolicy, MountOptions, QuotaType, QuotaTypes};
use aegisfs_tools::size;
use nix::mount::MsFlags;

/// When reading a file sets its access time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Atime {
    /// When it is older than the last change, or than a day.
    #[default]
    Relative,
    /// Always.
    Strict,
    /// Never.
    Never,
}

/// All options of a mount.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For the engine.
    pub engine: MountOptions,
    /// For mount(2).
    pub flags: MsFlags,
    /// Other users than the one who mounts may use it; `None`: if root mounts.
    pub allow_other: Option<bool>,
    /// Source to show instead of the device.
    pub fsname: Option<String>,
    /// Access times of files.
    pub atime: Atime,
    /// No access times of directories.
    pub nodiratime: bool,
    /// Changes of directories are durable when they return.
    pub sync_directories: bool,
    /// Types of quota whose limits bind.
    pub quota: QuotaTypes,
    /// Change the flags of a mount that is there.
    pub remount: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            engine: MountOptions::default(),
            flags: MsFlags::empty(),
            allow_other: None,
            fsname: None,
            atime: Atime::default(),
            nodiratime: false,
            sync_directories: false,
            quota: 0,
            remount: false,
        }
    }
}

/// Options for fstab(5), mount(8) and systemd, which mean nothing to the filesystem. `user` and its
/// like are acted on by mount(8).
const FOR_OTHERS: [&str; 17] = [
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "defaults",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "async",
    "norelatime",
    "diratime",
    "mand",
    "nomand",
    "default_permissions",
    "lazytime",
];

/// As [`FOR_OTHERS`], with a value or a continuation.
const FOR_OTHERS_PREFIX: [&str; 6] = ["x-", "X-", "comment=", "subtype=", "user=", "helper="];

/// What the mount table shows of every mount through FUSE, and mount(8) hands back at a remount.
const FOR_REMOUNT_PREFIX: [&str; 5] = [
    "user_id=",
    "group_id=",
    "rootmode=",
    "max_read=",
    "blksize=",
];

/// Options that are one bit of mount(2), and whether they set or clear it.
const FLAGS: [(&str, MsFlags, bool); 14] = [
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
];

impl Plan {
    /// Reads all `-o` arguments; later options win.
    ///
    /// # Errors
    /// Which option is wrong, and why.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut plan = Self::default();
        let options: Vec<String> = arguments.iter().flat_map(|a| split(a)).collect();
        plan.remount = options.iter().any(|option| option == "remount");
        for option in &options {
            plan.apply(option)?;
        }
        plan.engine.quota = plan.quota != 0;
        plan.engine.read_only = plan.flags.contains(MsFlags::MS_RDONLY);
        if plan.engine.no_recovery && !plan.engine.read_only {
            return Err(
                "option `norecovery` needs `ro`: without the journal nothing can be changed safely"
                    .into(),
            );
        }
        Ok(plan)
    }

    fn apply(&mut self, option: &str) -> Result<(), String> {
        if let Some((_, flag, on)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            self.flags.set(*flag, *on);
        }
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("noatime", None) => self.atime = Atime::Never,
            ("relatime" | "atime", None) => self.atime = Atime::Relative,
            ("strictatime", None) => self.atime = Atime::Strict,
            ("nodiratime", None) => self.nodiratime = true,
            ("sync" | "dirsync", None) => self.sync_directories = true,
            ("discard", None) => self.engine.discard = true,
            ("nodiscard", None) => self.engine.discard = false,
            ("norecovery" | "noload", None) => self.engine.no_recovery = true,
            ("usrquota" | "uquota" | "quota", None) => self.quota |= QuotaType::User.bit(),
            ("grpquota" | "gquota", None) => self.quota |= QuotaType::Group.bit(),
            ("prjquota" | "pquota", None) => self.quota |= QuotaType::Project.bit(),
            ("noquota", None) => self.quota = 0,
            ("allow_other", None) => self.allow_other = Some(true),
            ("commit", Some(value)) => self.engine.commit_secs = seconds(value)?,
            ("cache", Some(value)) => self.engine.cache_bytes = bytes(value)?,
            ("errors", Some(value)) => self.engine.errors = policy(value)?,
            ("fsname", Some(value)) => self.fsname = Some(value.to_owned()),
            ("remount", None) => {}
            _ if is_known(option) => {}
            _ if self.remount && has_prefix(option, &FOR_REMOUNT_PREFIX) => {}
            _ => return Err(format!("unknown mount option `{option}`; see aegisfs(5)")),
        }
        Ok(())
    }
}

fn is_known(option: &str) -> bool {
    FLAGS.iter().any(|(name, ..)| *name == option)
        || FOR_OTHERS.contains(&option)
        || has_prefix(option, &FOR_OTHERS_PREFIX)
        || option.is_empty()
}

fn has_prefix(option: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| option.starts_with(prefix))
}

fn seconds(value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(n @ 1..=3600) => Ok(n),
        _ => Err(format!(
            "option `commit={value}`: a number of seconds from 1 to 3600 is needed"
        )),
    }
}

fn bytes(value: &str) -> Result<usize, String> {
    let bytes = size::parse(value).map_err(|e| format!("option `cache={value}`: {e}"))?;
    usize::try_from(bytes).map_err(|_| format!("option `cache={value}`: too large"))
}

fn policy(value: &str) -> Result<ErrorPolicy, String> {
    match value {
        "remount-ro" => Ok(ErrorPolicy::RemountReadOnly),
        "continue" => Ok(ErrorPolicy::Continue),
        "panic" => Ok(ErrorPolicy::Panic),
        _ => Err(format!(
            "option `errors={value}`: use remount-ro, continue or panic"
        )),
    }
}

/// Splits at commas; a backslash takes the next character as it is (`fsname=a\,b`).
fn split(argument: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = argument.chars();
    while let Some(c) = chars.next() {
        let last = parts.len() - 1;
        match c {
            ',' => parts.push(String::new()),
            '\\' => parts[last].extend(chars.next()),
            c => parts[last].push(c),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::{Atime, Plan};
    use aegisfs_engine::ErrorPolicy;
    use nix::mount::MsFlags;

    fn parse(text: &str) -> Result<Plan, String> {
        Plan::parse(&[text.to_owned()])
    }

    #[test]
    fn what_mount_passes() {
        let plan =
            parse("rw,nosuid,nodev,relatime,_netdev,nofail,x-systemd.automount,user=joe").unwrap();
        assert!(!plan.engine.read_only);
        assert_eq!(
            plan.flags,
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RELATIME
        );
        assert_eq!(plan.atime, Atime::Relative);
    }

    #[test]
    fn own_options() {
        let plan = parse(
            r"ro,norecovery,errors=continue,commit=30,discard,cache=16M,fsname=a\,b,allow_other",
        )
        .unwrap();
        assert!(plan.engine.read_only && plan.engine.no_recovery && plan.engine.discard);
        assert_eq!(plan.engine.errors, ErrorPolicy::Continue);
        assert_eq!(plan.engine.commit_secs, 30);
        assert!(!plan.engine.quota);
        assert_eq!(plan.engine.cache_bytes, 16 << 20);
        assert_eq!(plan.fsname.as_deref(), Some("a,b"));
        assert_eq!(plan.allow_other, Some(true));
        let plan = parse("usrquota,prjquota").unwrap();
        assert_eq!((plan.quota, plan.engine.quota), (5, true));
        assert_eq!(parse("gquota,noquota").unwrap().quota, 0);
    }

    /// As mount(8) calls the helper for `mount -o remount,ro`.
    #[test]
    fn remount() {
        let plan =
            parse("ro,user_id=0,group_id=0,default_permissions,allow_other,remount").unwrap();
        assert!(plan.remount && plan.flags.contains(MsFlags::MS_RDONLY));
        assert!(parse("ro,user_id=0").is_err());
    }

    #[test]
    fn later_options_win() {
        assert!(!parse("ro,rw").unwrap().engine.read_only);
        assert!(parse("rw,ro").unwrap().engine.read_only);
    }

    #[test]
    fn wrong_options() {
        for text in [
            "norecovery",
            "commit=0",
            "commit=x",
            "errors=ignore",
            "frobnicate",
            "cache=x",
            "ro=1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    /// Every option that has an effect stands in the manual page.
    #[test]
    fn manual_page_is_complete() {
        let page = include_str!("../../../docs/man/aegisfs.5").replace('\\', "");
        let own = include_str!("options.rs")
            .lines()
            .skip_while(|line| !line.contains("match (name, value)"))
            .take_while(|line| !line.contains("_ if is_known"))
            .filter_map(|line| line.trim().strip_prefix("(\"")?.split_once(", "))
            .flat_map(|(names, _)| names.split('"').step_by(2));
        let flags = super::FLAGS.iter().map(|(name, ..)| *name);
        let mut found = 0;
        for name in own.chain(flags) {
            found += 1;
            let word =
                |w: &str| w.trim_matches(|c| "\",".contains(c)).trim_end_matches('=') == name;
            let documented = page
                .lines()
                .filter(|line| line.starts_with(".B"))
                .any(|line| {
                    line.replace("fR", "")
                        .replace("fB", "")
                        .split(' ')
                        .any(word)
                });
            assert!(
                documented || name == "atime",
                "`{name}` is not in aegisfs(5)"
            );
        }
        assert!(found > 20, "only {found} options were found");
    }
}
