//! What clients and server say to each other, over sockets that keep messages.
//!
//! ```text
//! client                                     server
//! greeting ───────────────────────────────→  the same user? room for another client?
//!          ←─────────────────────── greeting with the server's version, or why not, and the end
//! request, with a descriptor ─────────────→
//!          ←──────────────────────── answer, with a descriptor
//! …
//! ```
//!
//! A client has one request under way at a time; the server reads no further one before the answer is out of its
//! hands, so a client that never reads costs it one answer. Requests fit into a packet. The process that started the
//! server is a client by the socket that it started it with, and says [`Start`] first.
//!
//! Greetings keep their form for ever; what follows may differ between versions.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Client and server have to have the same.
pub(crate) const VERSION: u32 = 1;

/// The longest label, in bytes.
pub(crate) const MAX_LABEL: usize = 255;

const MAGIC: [u8; 8] = *b"ndshm-mg";

/// What both say first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    Version(u32),
    /// From a server that serves as many clients as it can.
    Full,
}

impl Greeting {
    pub(crate) fn encode(self) -> [u8; 12] {
        let word = match self {
            Self::Version(version) => version,
            Self::Full => 0,
        };
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..].copy_from_slice(&word.to_ne_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let word = u32::from_ne_bytes(*rest.first_chunk()?);
        (*magic == MAGIC).then_some(if word == 0 { Self::Full } else { Self::Version(word) })
    }
}

/// From the process that starts a server; comes with the record's descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) address: String,
    /// It stays when its starter has ended.
    pub(crate) detached: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Comes with the descriptor of a file that has no name yet: give it that one. The label is the name where there is
    /// none.
    Create {
        name: String,
        label: Option<String>,
        kind: Kind,
    },
    /// Comes with a descriptor: keep it, under that label or a new one.
    Publish {
        label: Option<String>,
        kind: Kind,
    },
    Attach {
        label: String,
    },
    Remove {
        label: String,
    },
    Keep {
        label: String,
    },
    List,
    ShutDown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    /// What was created or published is called so.
    Labelled(String),
    /// Comes with the block's descriptor, and its name where it has one.
    Block {
        name: Option<String>,
        content: Content,
    },
    List(Vec<Listed>),
    /// All names are removed, but for these, and nobody else will be answered.
    ShutDown {
        problems: Vec<Failure>,
    },
    Failed(Failure),
}

/// What a client says a block is; the server looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Memory,
    List,
    Array,
}

/// What the server has found a block to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Content {
    Memory,
    List {
        len: usize,
    },
    Array {
        descr: String,
        shape: Vec<usize>,
        fortran: bool,
        /// Where the elements start, and their length in bytes.
        data: (usize, usize),
        frozen: bool,
    },
    /// It is no longer what it was made as.
    Damaged {
        problem: String,
    },
}

impl Content {
    /// With its article.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::Memory => "bare memory",
            Self::List { .. } => "a list",
            Self::Array { frozen: false, .. } => "an array",
            Self::Array { frozen: true, .. } => "a frozen array",
            Self::Damaged { .. } => "damaged",
        }
    }
}

/// An entry of a list of what is there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) label: String,
    pub(crate) name: Option<String>,
    pub(crate) size: u64,
    pub(crate) content: Content,
}

/// An error on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    kind: String,
    message: String,
}

/// The kinds that a server's answers have; others arrive as `Io`.
const KINDS: [ErrorKind; 12] = [
    ErrorKind::NotFound,
    ErrorKind::AlreadyExists,
    ErrorKind::InvalidName,
    ErrorKind::InvalidSize,
    ErrorKind::InvalidArgument,
    ErrorKind::NoSpace,
    ErrorKind::Permission,
    ErrorKind::Layout,
    ErrorKind::TypeMismatch,
    ErrorKind::WouldBlock,
    ErrorKind::Closed,
    ErrorKind::Unsupported,
];

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { kind: format!("{:?}", error.kind()), message: error.to_string() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = KINDS.into_iter().find(|kind| format!("{kind:?}") == failure.kind);
        Error::new(kind.unwrap_or(ErrorKind::Io), failure.message)
    }
}

/// Labels are for people too: any text without control characters.
pub(crate) fn check_label(label: &str) -> Result<()> {
    if (1..=MAX_LABEL).contains(&label.len()) && !label.chars().any(char::is_control) {
        return Ok(());
    }
    let shown: String = label.chars().take(64).collect();
    Err(Error::new(
        ErrorKind::InvalidName,
        format!("found {shown:?} as a label, expected 1 to {MAX_LABEL} bytes of text without control characters"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_come_back_as_they_were_said() {
        for greeting in [Greeting::Version(VERSION), Greeting::Version(77), Greeting::Full] {
            assert_eq!(Greeting::decode(&greeting.encode()), Some(greeting));
        }
        for garbage in [b"".as_slice(), b"ndshm-mg", b"ndshm-hi\x01\0\0\0", b"GET / HTTP/1.0\r\n"] {
            assert_eq!(Greeting::decode(garbage), None);
        }
    }

    #[test]
    fn errors_keep_kind_and_words_on_their_way() {
        for kind in KINDS {
            let error = Error::from(Failure::from(Error::new(kind, "what and why")));
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, "what and why"));
        }
        let odd = Failure { kind: "Nonsense".to_owned(), message: String::new() };
        assert_eq!(Error::from(odd).kind(), ErrorKind::Io);
    }

    #[test]
    fn labels_are_text_that_can_be_shown() {
        for good in ["a", "run 7/temperature", "größe", &"x".repeat(MAX_LABEL)] {
            check_label(good).unwrap();
        }
        for bad in ["", "a\nb", "\0", "\u{1b}[31m", &"x".repeat(MAX_LABEL + 1)] {
            assert_eq!(check_label(bad).unwrap_err().kind(), ErrorKind::InvalidName, "{bad:?}");
        }
    }
}
