//! The bytes of a ledger: slots of 512 bytes, the head first, then one for each block. Native byte order.
//!
//! | offset | head | entry |
//! |---|---|---|
//! | 0 | `NDSHMLGR` | `NDSHMBLK`; a free slot is all zero |
//! | 8 | u32 version, 1 | u32 length of the name |
//! | 12 | u32 process id, 0 where unknown | u32 0 |
//! | 16 | 88 bytes: the ledger's own identity | 88 bytes: the block's identity |
//! | 104 | u64 start time, u64 pid namespace, u64 time namespace | the name, then zeros |
//! | 504 | u64 FNV-1a of the 504 bytes before | the same |
//!
//! An identity is u64 device, u64 inode, i32 kind of the handle, u32 length of the handle or `u32::MAX` where there is
//! none, and 64 bytes of it. No slot straddles a page, so that a process which is killed has written all of one or none.
//!
//! A ledger says which file it is, so that a copy of one is not taken for one.

use crate::memory::name;
use crate::sys::file::FileId;
use crate::sys::identity::{HANDLE_LEN, Handle, Identity};
use crate::sys::stamp::Stamp;

/// The size of a slot.
pub(super) const SLOT: usize = 512;
/// More than anybody has blocks.
pub(super) const MAX_SLOTS: usize = 1 << 20;

const HEAD_MAGIC: [u8; 8] = *b"NDSHMLGR";
const ENTRY_MAGIC: [u8; 8] = *b"NDSHMBLK";
const VERSION: u32 = 1;
const NO_HANDLE: u32 = u32::MAX;

const FIRST_WORD: usize = HEAD_MAGIC.len();
const SECOND_WORD: usize = FIRST_WORD + 4;
const IDENTITY: usize = SECOND_WORD + 4;
const IDENTITY_LEN: usize = 8 + 8 + 4 + 4 + HANDLE_LEN;
const REST: usize = IDENTITY + IDENTITY_LEN;
const CHECKSUM: usize = SLOT - 8;
const _: () = assert!(IDENTITY_LEN == 88 && REST == 104 && REST + name::MAX_LEN <= CHECKSUM && 4096 % SLOT == 0);

/// One block, as its owner has noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) identity: Identity,
}

/// The first slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Of the ledger itself.
    pub(super) identity: Identity,
    pub(super) owner: Stamp,
}

/// What is wrong with a ledger, as the end of a sentence that begins with its name.
pub(super) type Damage = &'static str;

impl Head {
    pub(super) fn encode(&self) -> [u8; SLOT] {
        let mut slot = begin(HEAD_MAGIC, VERSION, self.owner.pid, &self.identity);
        put(&mut slot, REST, &self.owner.started.to_ne_bytes());
        put(&mut slot, REST + 8, &self.owner.pid_ns.to_ne_bytes());
        put(&mut slot, REST + 16, &self.owner.time_ns.to_ne_bytes());
        finish(slot)
    }

    pub(super) fn parse(slot: &[u8; SLOT]) -> Result<Self, Damage> {
        if get(slot, 0) != HEAD_MAGIC {
            return Err("does not begin as a ledger does");
        }
        check(slot)?;
        if u32_at(slot, FIRST_WORD) != VERSION {
            return Err("has a version that this program does not know");
        }
        let owner = Stamp {
            pid: u32_at(slot, SECOND_WORD),
            started: u64_at(slot, REST),
            pid_ns: u64_at(slot, REST + 8),
            time_ns: u64_at(slot, REST + 16),
        };
        Ok(Self { identity: identity_at(slot)?, owner })
    }
}

impl Entry {
    pub(super) fn encode(&self) -> [u8; SLOT] {
        // A name is at most 255 bytes (`name::path_of`).
        let name = &self.name.as_bytes()[..self.name.len().min(name::MAX_LEN)];
        let len = u32::try_from(name.len()).unwrap_or(0);
        let mut slot = begin(ENTRY_MAGIC, len, 0, &self.identity);
        put(&mut slot, REST, name);
        finish(slot)
    }

    /// `None` for a free slot.
    pub(super) fn parse(slot: &[u8; SLOT]) -> Result<Option<Self>, Damage> {
        if slot.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if get(slot, 0) != ENTRY_MAGIC {
            return Err("has an entry that does not begin as one does");
        }
        check(slot)?;
        let len = u32_at(slot, FIRST_WORD) as usize;
        let name = slot[REST..CHECKSUM].get(..len).and_then(|name| std::str::from_utf8(name).ok());
        match name {
            // No slash, no `..`, none of the crate's own files: whatever stands there, it is a name in one directory.
            Some(name) if name::path_of(name).is_ok() => {
                Ok(Some(Self { name: name.to_owned(), identity: identity_at(slot)? }))
            }
            _ => Err("has an entry whose name cannot be a block's"),
        }
    }
}

fn begin(magic: [u8; 8], first: u32, second: u32, identity: &Identity) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    put(&mut slot, 0, &magic);
    put(&mut slot, FIRST_WORD, &first.to_ne_bytes());
    put(&mut slot, SECOND_WORD, &second.to_ne_bytes());
    put(&mut slot, IDENTITY, &identity.id.dev.to_ne_bytes());
    put(&mut slot, IDENTITY + 8, &identity.id.ino.to_ne_bytes());
    let (kind, len) = identity.handle.map_or((0, NO_HANDLE), |h| (h.kind, u32::try_from(h.len).unwrap_or(NO_HANDLE)));
    put(&mut slot, IDENTITY + 16, &kind.to_ne_bytes());
    put(&mut slot, IDENTITY + 20, &len.to_ne_bytes());
    put(&mut slot, IDENTITY + 24, &identity.handle.map_or([0; HANDLE_LEN], |handle| handle.bytes));
    slot
}

fn identity_at(slot: &[u8; SLOT]) -> Result<Identity, Damage> {
    let id = FileId { dev: u64_at(slot, IDENTITY), ino: u64_at(slot, IDENTITY + 8) };
    let handle = match u32_at(slot, IDENTITY + 20) {
        NO_HANDLE => None,
        len if len as usize <= HANDLE_LEN => {
            let kind = u32_at(slot, IDENTITY + 16).cast_signed();
            Some(Handle { kind, len: len as usize, bytes: get(slot, IDENTITY + 24) })
        }
        _ => return Err("has a file handle that is longer than one can be"),
    };
    Ok(Identity { id, handle })
}

fn finish(mut slot: [u8; SLOT]) -> [u8; SLOT] {
    let sum = checksum(&slot);
    put(&mut slot, CHECKSUM, &sum.to_ne_bytes());
    slot
}

fn check(slot: &[u8; SLOT]) -> Result<(), Damage> {
    if u64_at(slot, CHECKSUM) == checksum(slot) { Ok(()) } else { Err("has a checksum that does not fit") }
}

/// Against accidents: who may write the ledger can make it say anything.
fn checksum(slot: &[u8; SLOT]) -> u64 {
    slot[..CHECKSUM]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn put(slot: &mut [u8; SLOT], at: usize, bytes: &[u8]) {
    slot[at..at + bytes.len()].copy_from_slice(bytes);
}

fn get<const N: usize>(slot: &[u8; SLOT], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&slot[at..at + N]);
    bytes
}

fn u32_at(slot: &[u8; SLOT], at: usize) -> u32 {
    u32::from_ne_bytes(get(slot, at))
}

fn u64_at(slot: &[u8; SLOT], at: usize) -> u64 {
    u64::from_ne_bytes(get(slot, at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identities() -> impl Strategy<Value = Identity> {
        let handle = (any::<i32>(), prop::collection::vec(any::<u8>(), 0..=HANDLE_LEN)).prop_map(|(kind, start)| {
            let mut bytes = [0; HANDLE_LEN];
            bytes[..start.len()].copy_from_slice(&start);
            Handle { kind, len: start.len(), bytes }
        });
        (any::<u64>(), any::<u64>(), prop::option::of(handle))
            .prop_map(|(dev, ino, handle)| Identity { id: FileId { dev, ino }, handle })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn slots_come_back_as_they_were(
            identity in identities(),
            name in "[a-zäß. -]{1,100}",
            (pid, started, pid_ns, time_ns) in any::<(u32, u64, u64, u64)>(),
        ) {
            let head = Head { identity, owner: Stamp { pid, started, pid_ns, time_ns } };
            prop_assert_eq!(Head::parse(&head.encode()), Ok(head));
            let entry = Entry { name: format!("x{name}"), identity };
            prop_assert_eq!(Entry::parse(&entry.encode()), Ok(Some(entry)));
        }

        #[test]
        fn a_byte_that_changed_is_damage(identity in identities(), at in 0..SLOT, other in 1_u8..) {
            let mut slot = Entry { name: "climate".to_owned(), identity }.encode();
            slot[at] ^= other;
            prop_assert!(Entry::parse(&slot).is_err());
            let mut slot = Head { identity, owner: Stamp::default() }.encode();
            slot[at] ^= other;
            prop_assert!(Head::parse(&slot).is_err());
        }

        #[test]
        fn hostile_bytes_with_a_right_checksum_name_nothing_outside(
            mut bytes in prop::collection::vec(any::<u8>(), SLOT),
            name in prop::collection::vec(prop::sample::select(&b"./a\0\xff"[..]), 0..9),
            len in prop_oneof![0_u32..9, Just(255), Just(400), any::<u32>()],
        ) {
            bytes[..8].copy_from_slice(&ENTRY_MAGIC);
            bytes[FIRST_WORD..SECOND_WORD].copy_from_slice(&len.to_ne_bytes());
            bytes[IDENTITY + 20..IDENTITY + 24].copy_from_slice(&12_u32.to_ne_bytes());
            bytes[REST..REST + name.len()].copy_from_slice(&name);
            let slot = finish(bytes.try_into().unwrap());
            if let Ok(Some(entry)) = Entry::parse(&slot) {
                let path = name::path_of(&entry.name).unwrap();
                prop_assert_eq!(path.parent().unwrap(), std::path::Path::new("/dev/shm"));
            }
        }
    }

    #[test]
    fn a_slot_of_zeros_is_free_and_no_head() {
        assert_eq!(Entry::parse(&[0; SLOT]), Ok(None));
        assert!(Head::parse(&[0; SLOT]).is_err());
    }

    #[test]
    fn every_name_fits() {
        let identity = Identity { id: FileId { dev: 1, ino: 2 }, handle: None };
        let longest = Entry { name: "x".repeat(255), identity };
        assert_eq!(Entry::parse(&longest.encode()), Ok(Some(longest)));
    }
}
