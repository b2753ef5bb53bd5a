//! Row layout of the state database: one byte of table, then the key.
//!
//! Invariant: the machine sees its own rows only, without the table byte.

use std::io;

use bytes::Bytes;
use prost::Message;

use super::Applied;
use crate::codec::{self, CodecError, proto};
use crate::engine::{EachRow, View, Write};
use crate::machine::Row;
use crate::seal::{seal, unseal};

const MACHINE: u8 = b'r';
const AFTER_MACHINE: u8 = b'r' + 1;
const META: &[u8] = b"mapplied";

pub(crate) fn machine_key(key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(MACHINE);
    full.extend_from_slice(key);
    full
}

pub(crate) fn write_of(row: Row) -> Write {
    match row {
        Row::Put { key, value } => Write::Put {
            key: machine_key(&key),
            value,
        },
        Row::Delete { key } => Write::Delete {
            key: machine_key(&key),
        },
        Row::DeleteRange { from, to } => Write::DeleteRange {
            from: machine_key(&from),
            to: machine_key(&to),
        },
    }
}

pub(crate) fn put_applied(applied: &Applied) -> proto::StateMeta {
    proto::StateMeta {
        applied: codec::put_opt_id(&applied.log_id),
        membership: Some(codec::put_stored_membership(&applied.membership)),
        digest: Bytes::copy_from_slice(&applied.digest),
    }
}

pub(crate) fn get_applied(meta: proto::StateMeta) -> io::Result<Applied> {
    Ok(Applied {
        log_id: codec::get_opt_id(meta.applied),
        membership: codec::get_stored_membership(meta.membership)?,
        digest: meta
            .digest
            .as_ref()
            .try_into()
            .map_err(|_| CodecError::Missing("the state's digest"))?,
    })
}

pub(crate) fn write_applied(applied: &Applied) -> Write {
    Write::Put {
        key: META.to_vec(),
        value: seal(META, &put_applied(applied).encode_to_vec()),
    }
}

/// Where the state of `view` stands; a new database stands at the default.
pub(crate) fn read_applied(view: &dyn View) -> io::Result<Applied> {
    let Some(bytes) = view.get(META)? else {
        return Ok(Applied::default());
    };
    get_applied(proto::StateMeta::decode(unseal(META, &bytes)?).map_err(CodecError::from)?)
}

/// A view of the machine's rows.
pub(crate) struct MachineView<'a>(pub(crate) &'a dyn View);

impl View for MachineView<'_> {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.0.get(&machine_key(key))
    }

    fn scan(&self, from: &[u8], to: &[u8], each: EachRow<'_>) -> io::Result<()> {
        let end = if to.is_empty() {
            vec![AFTER_MACHINE]
        } else {
            machine_key(to)
        };
        self.0.scan(&machine_key(from), &end, &mut |key, value| {
            each(key.get(1..).unwrap_or_default(), value)
        })
    }
}
