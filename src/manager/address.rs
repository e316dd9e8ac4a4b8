//! Where a manager is found: an abstract socket name made of user and manager.
//!
//! Such a name lies in no file system: nothing of it is left however the server ends, and there is nothing that another
//! user could plant or remove. What it lacks is permissions, so server and client ask the kernel who the other one is.

use std::fmt;

use nix::unistd::geteuid;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::random::random_u64;

/// What addresses begin with, behind an `@`; a socket's name has at most 107 bytes.
const PREFIX: &str = "ndshm/";
/// The longest name of a manager.
const MAX_NAME: usize = 64;

/// As text `@ndshm/1000/climate`: user id and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) uid: u32,
    name: String,
}

impl Address {
    /// This user's manager of that name, or one with a new name.
    pub(crate) fn of_this_user(name: Option<&str>) -> Result<Self> {
        let name = match name {
            Some(name) => checked(name)?.to_owned(),
            None => format!("{:016x}", random_u64()?),
        };
        Ok(Self { uid: geteuid().as_raw(), name })
    }

    /// Reads an address as it is written, or a name alone, which means this user's manager.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix('@') else { return Self::of_this_user(Some(text)) };
        let parts = rest.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/'));
        let uid = parts.and_then(|(uid, _)| uid.parse().ok());
        match (uid, parts) {
            (Some(uid), Some((_, name))) => Ok(Self { uid, name: checked(name)?.to_owned() }),
            _ => Err(Error::new(
                ErrorKind::InvalidName,
                format!("found {text:?}, expected a manager's address such as \"@{PREFIX}1000/climate\", or its name"),
            )),
        }
    }

    pub(crate) fn socket_name(&self) -> String {
        format!("{PREFIX}{}/{}", self.uid, self.name)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{PREFIX}{}/{}", self.uid, self.name)
    }
}

fn checked(name: &str) -> Result<&str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(name);
    }
    let shown: String = name.chars().take(80).collect();
    Err(Error::new(
        ErrorKind::InvalidName,
        format!(
            "found {shown:?} as a manager's name, expected 1 to {MAX_NAME} ASCII letters, digits and `.`, `_`, `-`"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        let own = Address::of_this_user(Some("climate-2024.v1")).unwrap();
        assert_eq!(Address::parse(&own.to_string()).unwrap(), own);
        assert_eq!(Address::parse("climate-2024.v1").unwrap(), own);
        assert_eq!(Address::parse("@ndshm/7/x").unwrap(), Address { uid: 7, name: "x".to_owned() });
        assert_ne!(Address::of_this_user(None).unwrap(), Address::of_this_user(None).unwrap());
        let longest = Address { uid: u32::MAX, name: "n".repeat(MAX_NAME) };
        assert!(longest.socket_name().len() <= 107);
        for bad in ["", "a/b", "a b", "ü", "@", "@x", "@ndshm/x/y", "@ndshm/7/", "@ndshm/7", &"n".repeat(65)] {
            assert_eq!(Address::parse(bad).unwrap_err().kind(), ErrorKind::InvalidName, "{bad}");
        }
    }
}
