//! What is handed over, and what the reader does with it.

use crate::common::Result;

pub(crate) struct Message {
    elements: Vec<u64>,
    sum: u64,
}

impl Message {
    pub(crate) fn new(bytes: usize) -> Self {
        let elements: Vec<u64> = (0..(bytes / size_of::<u64>()) as u64).collect();
        let sum = sum(&elements);
        Self { elements, sum }
    }

    pub(crate) fn elements(&self) -> &[u64] {
        &self.elements
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.elements)
    }

    /// What a reader has to answer.
    pub(crate) fn answer(&self, reading: Reading) -> u64 {
        match reading {
            Reading::All => self.sum,
            Reading::Nothing => 0,
        }
    }
}

/// What a reader does with what it was handed.
#[derive(Clone, Copy)]
pub(crate) enum Reading {
    All,
    /// It takes it and looks at none of it.
    Nothing,
}

impl Reading {
    pub(crate) fn of(self, elements: &[u64]) -> u64 {
        match self {
            Reading::All => sum(elements),
            Reading::Nothing => 0,
        }
    }

    /// As a peer is told it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reading::All => "all",
            Reading::Nothing => "nothing",
        }
    }

    pub(crate) fn named(name: &str) -> Result<Self> {
        [Reading::All, Reading::Nothing]
            .into_iter()
            .find(|reading| reading.name() == name)
            .ok_or_else(|| format!("no way to read is called {name}").into())
    }
}

/// Compiled once, so that every reader runs the same code.
#[inline(never)]
fn sum(elements: &[u64]) -> u64 {
    elements.iter().fold(0, |sum, &element| sum.wrapping_add(element))
}
