//! Handing over by lending a shared array to a pool of one worker.

use ndarray::{ArrayView1, Ix1};
use ndshm::{HugePages, Pool, SharedArray};

use crate::common::Result;
use crate::reading::{Message, Reading};
use crate::rival::Rival;

type Array = SharedArray<u64, Ix1>;

struct Lender {
    pool: Pool,
    reading: Reading,
    /// `None` for what a program gets that does not say.
    pages: Option<HugePages>,
}

impl Lender {
    fn start(reading: Reading, pages: Option<HugePages>) -> Result<Self> {
        Ok(Self { pool: Pool::builder().workers(1).build()?, reading, pages })
    }

    fn array_of(&self, message: &Message) -> Result<Array> {
        let options = Array::options();
        let options = if let Some(pages) = self.pages { options.huge_pages(pages) } else { options };
        Ok(options.from_array(&ArrayView1::from(message.elements()))?)
    }

    fn lend(&self, array: &Array) -> Result<u64> {
        let answers = match self.reading {
            Reading::All => {
                self.pool.map((array,), |(elements,), _| elements.as_slice().map(|e| Reading::All.of(e)))?
            }
            Reading::Nothing => self.pool.map((array,), |(_,), _| Some(Reading::Nothing.of(&[])))?,
        };
        let [Some(answer)] = answers[..] else { return Err("one task was expected, over elements in a row".into()) };
        Ok(answer)
    }
}

/// An array that is made for each message, and dropped after it.
pub(crate) struct Anew(Lender);

impl Anew {
    pub(crate) fn start(reading: Reading, pages: Option<HugePages>) -> Result<Box<dyn Rival>> {
        Ok(Box::new(Self(Lender::start(reading, pages)?)))
    }
}

impl Rival for Anew {
    fn hand_over(&mut self, message: &Message) -> Result<u64> {
        self.0.lend(&self.0.array_of(message)?)
    }
}

/// An array that exists before it is handed over.
pub(crate) struct Kept {
    lender: Lender,
    array: Option<Array>,
}

impl Kept {
    pub(crate) fn start(reading: Reading, pages: Option<HugePages>, message: &Message) -> Result<Box<dyn Rival>> {
        let lender = Lender::start(reading, pages)?;
        let array = lender.array_of(message)?;
        Ok(Box::new(Self { lender, array: Some(array) }))
    }
}

impl Rival for Kept {
    fn prepare(&mut self, message: &Message) -> Result<()> {
        // The worker unmaps the old one while the new one is made.
        self.array = None;
        self.array = Some(self.lender.array_of(message)?);
        Ok(())
    }

    fn hand_over(&mut self, _: &Message) -> Result<u64> {
        self.lender.lend(self.array.as_ref().ok_or("no array was prepared")?)
    }
}
