//! What workers note arrives once, and in the hands of its chunks; what none would note is an error.

use std::cell::RefCell;
use std::ops::Range;

use super::super::board::Noted;
use super::super::{Entry, Reader};
use super::*;
use crate::pool::numbers::Form;
use crate::pool::protocol::TaskFailure;

const CALL: u64 = 7;
const MOST_WORDS: usize = Mapped::RESULTS_LEN / WORD;

/// A page with one worker, and its parent.
struct Pair {
    page: ControlPage,
    reader: RefCell<Reader>,
    words: RefCell<Vec<u64>>,
}

impl Pair {
    fn new() -> Self {
        Self { page: ControlPage::create(1).unwrap(), reader: RefCell::default(), words: RefCell::default() }
    }

    fn writer(&self) -> Writer<'_> {
        let writer = Writer::new(&self.page, 0, CALL);
        assert!(writer.begin(0));
        writer
    }

    fn noted(&self) -> Noted {
        self.page.noted(0, CALL)
    }

    /// What is new where that is noted, as text.
    fn read_noted(&self, noted: Noted) -> Result<Vec<String>, String> {
        self.told(|reader, told, note| {
            reader.read_noted(&self.page.area(0), noted, told, &Told::words, &mut |told, entry| note(told, entry))
        })
    }

    /// The same as the parent takes it in.
    fn read(&self, finished: bool) -> Vec<String> {
        self.told(|reader, told, note| reader.read(&self.page, (0, CALL, finished), told, Told::words, note)).unwrap()
    }

    fn told(
        &self,
        read: impl FnOnce(&mut Reader, &mut Told, &mut dyn FnMut(&mut Told, Entry) -> bool) -> crate::Result<()>,
    ) -> Result<Vec<String>, String> {
        let mut told = Told { words: self.words.take(), texts: Vec::new() };
        let read = read(&mut self.reader.borrow_mut(), &mut told, &mut |told, entry| {
            // All of a range may be known when it goes into the area.
            if !matches!(&entry, Entry::Nothing(chunks) if chunks.is_empty()) {
                told.texts.push(text_of(&entry, &told.words));
            }
            true
        });
        self.words.replace(told.words);
        read.map(|()| told.texts).map_err(|error| error.to_string())
    }
}

struct Told {
    words: Vec<u64>,
    texts: Vec<String>,
}

impl Told {
    fn words(&mut self) -> &mut Vec<u64> {
        &mut self.words
    }
}

fn text_of(entry: &Entry, words: &[u64]) -> String {
    match entry {
        Entry::Nothing(chunks) => format!("{chunks:?}: nothing"),
        Entry::Numbers(chunks, kinds, (names, at)) => {
            let end = at + chunks.len() * kinds.count();
            let len = kinds.words_of_names(|at| words.get(names + at).copied()).unwrap();
            format!("{chunks:?}: {len} {:?}", &words[*at..end])
        }
        Entry::Value(chunk, record) => {
            let (bytes, next) = value_at(words, record.start);
            assert_eq!(next, record.end);
            format!("{chunk}: {bytes:?}")
        }
        Entry::Failure(chunk, failure) => format!("{chunk}: {failure:?}"),
    }
}

fn number(writer: &mut Writer<'_>, chunk: usize, value: impl serde::Serialize) -> Room {
    let mut record = Record::default();
    assert_eq!(record.numbers.take(&value), Form::Numbers);
    writer.numbers(chunk, &mut record)
}

fn value(writer: &mut Writer<'_>, chunk: usize, bytes: &[u8]) -> Room {
    let mut record = Record::default();
    record.cleared().extend_from_slice(bytes);
    writer.value(chunk, &mut record)
}

/// A healthy worker was killed for saying a chunk twice: the range of done chunks was read before the worker had moved
/// on, and the area after that.
#[test]
fn a_range_that_was_read_before_the_area_is_told_once() {
    let pair = Pair::new();
    let mut writer = pair.writer();
    assert_eq!(writer.nothing(0), Room::Enough);
    let before = pair.noted();
    assert_eq!(before.done, Some(0..1));
    assert_eq!([writer.nothing(2), writer.nothing(1)], [Room::Enough; 2]);
    let now = pair.noted();
    let older = |before: &Noted, now: &Noted| Noted { written: now.written, ..before.clone() };
    assert_eq!(pair.read_noted(older(&before, &now)).unwrap(), ["0..1: nothing", "2..3: nothing"]);
    assert_eq!(pair.read_noted(now).unwrap(), ["1..2: nothing"]);

    // The same where the range was known from an earlier look, and has grown since.
    let before = pair.noted();
    assert_eq!(writer.nothing(4), Room::Enough);
    assert!(pair.read_noted(before.clone()).unwrap().is_empty());
    assert!(pair.read_noted(older(&before, &pair.noted())).unwrap().is_empty());
    assert_eq!(pair.read_noted(pair.noted()).unwrap(), ["4..5: nothing"]);
}

#[test]
fn numbers_of_chunks_in_a_row_are_told_together() {
    let pair = Pair::new();
    let mut writer = pair.writer();
    for chunk in 10..14 {
        assert_eq!(number(&mut writer, chunk, chunk), Room::Enough);
    }
    assert_eq!(number(&mut writer, 3, 1), Room::Enough);
    assert_eq!(number(&mut writer, 4, (1, -1_i8)), Room::Enough);
    assert_eq!(number(&mut writer, 5, (2, -1_i8)), Room::Enough);
    writer.finish();
    let minus = u64::MAX;
    assert_eq!(
        pair.read(true),
        [
            "10..14: 0 [10, 11, 12, 13]".to_owned(),
            "3..4: 0 [1]".to_owned(),
            format!("4..6: 0 [1, {minus}, 2, {minus}]"),
        ]
    );
    assert!(pair.read(true).is_empty());
}

#[test]
fn a_run_is_told_bit_by_bit_while_it_is_open() {
    #[derive(serde::Serialize)]
    struct Named {
        first: usize,
        the_second_of_them: bool,
    }
    let pair = Pair::new();
    let mut writer = pair.writer();
    let named = |writer: &mut Writer<'_>, first| {
        assert_eq!(number(writer, first, Named { first, the_second_of_them: true }), Room::Enough);
    };
    named(&mut writer, 0);
    assert_eq!(pair.read(false), ["0..1: 6 [0, 1]"]);
    assert!(pair.read(false).is_empty());
    named(&mut writer, 1);
    named(&mut writer, 2);
    assert_eq!(pair.read(false), ["1..3: 6 [1, 1, 2, 1]"]);
    named(&mut writer, 3);
    // It is closed, and another one stands behind it.
    named(&mut writer, 5);
    assert_eq!(pair.read(false), ["3..4: 6 [3, 1]", "5..6: 6 [5, 1]"]);
    assert_eq!([writer.nothing(6), value(&mut writer, 7, b"seven")], [Room::Enough; 2]);
    assert_eq!(pair.read(false), ["7: [115, 101, 118, 101, 110]", "6..7: nothing"]);
    writer.finish();
    assert!(pair.read(true).is_empty());
}

#[test]
fn numbers_that_were_looked_at_before_the_area_are_told_once() {
    let pair = Pair::new();
    let mut writer = pair.writer();
    assert_eq!(number(&mut writer, 0, 1), Room::Enough);
    let before = pair.noted();
    assert_eq!(before.numbers, Some(0..1));
    for (chunk, value) in [(1, 2), (5, 6), (3, 4)] {
        assert_eq!(number(&mut writer, chunk, value), Room::Enough);
    }
    let now = pair.noted();
    assert_eq!(pair.read_noted(Noted { written: now.written, ..before }).unwrap(), ["0..2: 0 [1, 2]", "5..6: 0 [6]"]);
    let before = now.clone();
    assert_eq!(pair.read_noted(now).unwrap(), ["3..4: 0 [4]"]);
    assert_eq!(value(&mut writer, 9, &[]), Room::Enough);
    let now = pair.noted();
    assert_eq!(pair.read_noted(Noted { written: now.written, ..before }).unwrap(), ["9: []"]);
    assert!(pair.read_noted(now).unwrap().is_empty());
}

#[test]
fn a_worker_goes_on_when_the_parent_has_read() {
    let pair = Pair::new();
    let mut writer = pair.writer();
    let mut chunk = 0;
    for round in 0..5 {
        let first = chunk;
        while number(&mut writer, chunk, 7) == Room::Enough {
            chunk += 1;
        }
        assert_eq!(chunk - first, MOST_WORDS - 2, "a head and a count are in front of them");
        assert!(!writer.has_more_room());
        let told = pair.read(false);
        assert!(told.len() == 1 && told[0].starts_with(&format!("{first}..{chunk}: ")), "round {round}");
        assert!(writer.has_more_room());
        // From here on all begins in the middle.
        assert_eq!(value(&mut writer, chunk, &[1; 1000]), Room::Enough);
        assert_eq!(value(&mut writer, chunk + 1, &vec![1; Mapped::RESULTS_LEN]), Room::Never);
        assert_eq!(value(&mut writer, chunk + 1, &vec![1; Mapped::RESULTS_LEN - WORD]), Room::Later);
        assert_eq!(pair.read(false).len(), 1);
        chunk += 1;
    }
}

#[test]
fn outcomes_go_on_at_the_beginning_of_the_area() {
    let pair = Pair::new();
    let mut writer = pair.writer();
    for chunk in 0..10_000 {
        let bytes = vec![u8::try_from(chunk % 251).unwrap(); chunk % 331];
        assert_eq!(value(&mut writer, 3 * chunk, &bytes), Room::Enough);
        assert_eq!(number(&mut writer, 3 * chunk + 1, (chunk, 1, 2)), Room::Enough);
        assert_eq!(writer.nothing(3 * chunk + 2), Room::Enough);
        let mut told = pair.read(false);
        told.sort_by_key(|text| text.contains("nothing"));
        let expected = [
            format!("{}: {bytes:?}", 3 * chunk),
            format!("{}..{}: 0 [{chunk}, 1, 2]", 3 * chunk + 1, 3 * chunk + 2),
            format!("{}..{}: nothing", 3 * chunk + 2, 3 * chunk + 3),
        ];
        assert_eq!(told, expected);
    }
}

/// Whatever stands in an area, what comes of it is an error or outcomes that may be anybody's; and no more of them than
/// there are chunks.
#[test]
fn what_no_worker_writes_is_an_error() {
    let mut seed = 1_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let below = |random: u64, most: usize| usize::try_from(random % most as u64).unwrap();
    let (mut errors, mut good) = (0, 0);
    for _ in 0..20_000 {
        let pair = Pair::new();
        let mut writer = pair.writer();
        for chunk in 0..below(random(), 8) {
            let chunk = chunk * 2 / (1 + below(random(), 2));
            let _ = match random() % 5 {
                0 => writer.nothing(chunk),
                1 => value(&mut writer, chunk, &[1; 20][..below(random(), 20)]),
                2 => number(&mut writer, chunk, chunk),
                3 => number(&mut writer, chunk, std::time::Duration::from_secs(1)),
                _ => {
                    let mut record = Record::default();
                    rmp_serde::encode::write(record.cleared(), &TaskFailure::Failed("no".to_owned())).unwrap();
                    writer.failure(chunk, &mut record)
                }
            };
        }
        for _ in 0..2 {
            let mut noted = pair.noted();
            for _ in 0..below(random(), 3) {
                let place = WORD * below(random(), 24);
                let changed = match random() % 4 {
                    0 => random(),
                    1 => random() % 64,
                    2 => pair.page.area(0).get(place) ^ 1 << (random() % 64),
                    _ => head(random() % 4, below(random(), 9), below(random(), 99)),
                };
                pair.page.area(0).put(place, &[changed]);
                let range: Range<usize> = below(random(), 4)..below(random(), 70_000);
                match random() % 16 {
                    0 => noted.written = below(random(), 1 << 24),
                    1 => noted.written = WORD * below(random(), 32),
                    2 if !range.is_empty() => noted.numbers = Some(range),
                    3 if !range.is_empty() => noted.done = Some(range),
                    _ => {}
                }
            }
            if pair.read_noted(noted).is_err() {
                errors += 1;
                break;
            }
            good += 1;
        }
    }
    assert!(errors > 1000 && good > 1000, "{errors} {good}");
}

/// An area that goes round and round must not fill the parent's memory.
#[test]
fn no_record_is_of_no_chunk() {
    for (records, expected) in [
        // What was known is closed once. The second time nothing of it is known, so its chunks are told again, which is
        // refused further on.
        (vec![head(DONE, 5, 9), head(DONE, 5, 9)], Some("5..9: nothing")),
        (vec![head(DONE, 5, 5)], None),
        (vec![head(DONE, 5, 4)], None),
        (vec![head(NUMBERS, 5, 1), 0], None),
    ] {
        let pair = Pair::new();
        let mut writer = pair.writer();
        for chunk in 5..9 {
            assert_eq!(writer.nothing(chunk), Room::Enough);
        }
        assert_eq!(pair.read(false), ["5..9: nothing"]);
        pair.page.area(0).put(0, &records);
        let told = pair.read_noted(Noted { done: None, numbers: None, written: size_of_val(&records[..]) });
        assert_eq!(told.ok(), expected.map(|told| vec![told.to_owned()]));
    }
}
