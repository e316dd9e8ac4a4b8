//! What happens to named blocks when the user logs out: logind's `RemoveIPC`.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

use super::{Finding, Level};

const TOPIC: &str = "logging out";
/// Later ones win.
const PLACES: [&str; 4] = ["/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd"];
/// System users' blocks are left alone (`SYSTEM_UID_MAX`).
const FIRST_USER: u32 = 1000;

pub(super) fn look() -> Vec<Finding> {
    // Only where logind runs.
    if !Path::new("/run/systemd/seats").is_dir() {
        return vec![Finding::good(TOPIC, "no logind here that would remove blocks")];
    }
    let user = geteuid();
    if user.as_raw() < FIRST_USER {
        return vec![Finding::good(TOPIC, "logind leaves a system user's blocks alone")];
    }
    let removes = configuration()
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .fold(true, |before, text| remove_ipc(&text).unwrap_or(before));
    let name = User::from_uid(user).ok().flatten().map(|user| user.name).unwrap_or_default();
    let lingers = !name.is_empty() && Path::new("/var/lib/systemd/linger").join(&name).exists();
    vec![match (removes, lingers) {
        (false, _) => Finding::good(TOPIC, "logind is told to leave blocks alone (RemoveIPC=no)"),
        (true, true) => Finding::good(TOPIC, "this user lingers, so logind leaves blocks alone"),
        (true, false) => {
            let found = "logind removes this user's named blocks with the last session (RemoveIPC=yes)";
            let meaning = "kept blocks, and those of programs under nohup, are gone after logging out";
            let advice = format!("loginctl enable-linger {name}; or RemoveIPC=no in /etc/systemd/logind.conf");
            Finding::new(TOPIC, Level::Warning, found, meaning, advice)
        }
    }]
}

/// The files in the order in which they are read: the main one, then the pieces by name.
fn configuration() -> Vec<PathBuf> {
    let main = PLACES.iter().rev().map(|dir| Path::new(dir).join("logind.conf")).find(|path| path.is_file());
    let mut pieces: Vec<PathBuf> = PLACES
        .iter()
        .filter_map(|dir| fs::read_dir(Path::new(dir).join("logind.conf.d")).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    pieces.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    main.into_iter().chain(pieces).collect()
}

/// What a file says, if it says anything.
fn remove_ipc(text: &str) -> Option<bool> {
    let value = text.lines().rev().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "RemoveIPC").then(|| value.trim().to_ascii_lowercase())
    })?;
    match &*value {
        "yes" | "true" | "on" | "1" | "y" | "t" => Some(true),
        "no" | "false" | "off" | "0" | "n" | "f" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_file_counts_and_comments_do_not() {
        assert_eq!(remove_ipc("[Login]\n#RemoveIPC=no\n"), None);
        assert_eq!(remove_ipc("[Login]\nRemoveIPC=no\n"), Some(false));
        assert_eq!(remove_ipc("RemoveIPC=no\nRemoveIPC = Yes\n"), Some(true));
        assert_eq!(remove_ipc("RemoveIPC=perhaps"), None);
    }
}
