//! PostgreSQL's binary COPY format: a writer, and a reader that takes a stream cut anywhere.
//!
//! `PGCOPY\n\xff\r\n\0`, flags and an empty header extension; rows of big-endian fields, each with its length (-1:
//! NULL); a row of -1 fields ends it. Instants are microseconds since 2000-01-01.

use crate::time::YEAR_2000_MS;
use crate::{Broken, Id};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
const HEADER_BYTES: usize = SIGNATURE.len() + 8;
const TEXT_OID: u32 = 25;
/// The only version of jsonb's binary form.
const JSONB_VERSION: u8 = 1;

pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub fn with_capacity(bytes: usize) -> Self {
        let mut out = Vec::with_capacity(bytes + HEADER_BYTES + 2);
        out.extend_from_slice(SIGNATURE);
        out.extend_from_slice(&[0; 8]);
        Self { out }
    }

    /// Rows alone, for a stream whose header and trailer somebody else writes.
    pub fn rows_only() -> Self {
        Self { out: Vec::new() }
    }

    /// The other's rows behind these.
    pub fn append(&mut self, rows: &Self) {
        self.out.extend_from_slice(&rows.out);
    }

    /// Overwrites what was written at a place.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        self.out[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn len(&self) -> usize {
        self.out.len()
    }

    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub fn row(&mut self, fields: u16) {
        self.out.extend_from_slice(&fields.to_be_bytes());
    }

    pub fn null(&mut self) {
        self.out.extend_from_slice(&(-1_i32).to_be_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.out.extend_from_slice(bytes);
    }

    pub fn optional(&mut self, text: Option<&[u8]>) {
        match text {
            Some(text) => self.bytes(text),
            None => self.null(),
        }
    }

    pub fn boolean(&mut self, value: bool) {
        self.bytes(&[u8::from(value)]);
    }

    pub fn instant(&mut self, ms: i64) {
        self.bytes(&((ms - YEAR_2000_MS) * 1_000).to_be_bytes());
    }

    pub fn jsonb(&mut self, json: &[u8]) {
        self.out.extend_from_slice(&(json.len() as u32 + 1).to_be_bytes());
        self.out.push(JSONB_VERSION);
        self.out.extend_from_slice(json);
    }

    pub fn texts<T: AsRef<[u8]>>(&mut self, texts: &[T]) {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        // An empty array has no dimension at all.
        let dimensions = u32::from(!texts.is_empty());
        for word in [dimensions, 0, TEXT_OID] {
            self.out.extend_from_slice(&word.to_be_bytes());
        }
        if !texts.is_empty() {
            self.out.extend_from_slice(&(texts.len() as u32).to_be_bytes());
            self.out.extend_from_slice(&1_u32.to_be_bytes());
        }
        for text in texts {
            self.bytes(text.as_ref());
        }
        let length = (self.out.len() - at - 4) as u32;
        self.out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(&(-1_i16).to_be_bytes());
        self.out
    }
}

/// One row while it is being fed; each accessor checks the length that its type has.
pub struct Row<'a> {
    data: &'a [u8],
    fields: &'a [Option<(usize, usize)>],
}

impl<'a> Row<'a> {
    pub fn bytes(&self, field: usize) -> Option<&'a [u8]> {
        self.fields[field].map(|(from, to)| &self.data[from..to])
    }

    pub fn text(&self, field: usize) -> Result<Option<&'a str>, Broken> {
        self.bytes(field).map(|bytes| std::str::from_utf8(bytes).map_err(|_| Broken("a text is not UTF-8"))).transpose()
    }

    pub fn jsonb(&self, field: usize) -> Result<Option<&'a str>, Broken> {
        match self.bytes(field) {
            None => Ok(None),
            Some([JSONB_VERSION, json @ ..]) => {
                std::str::from_utf8(json).map(Some).map_err(|_| Broken("a jsonb is not UTF-8"))
            }
            Some(_) => Err(Broken("a jsonb of unknown version")),
        }
    }

    pub fn id(&self, field: usize) -> Result<Option<Id>, Broken> {
        self.bytes(field).map(|bytes| bytes.try_into().map_err(|_| Broken("a uuid has 16 bytes"))).transpose()
    }

    /// Milliseconds since 1970, rounded down. Infinities are what they are in Postgres: the first and last instants.
    pub fn instant(&self, field: usize) -> Result<Option<i64>, Broken> {
        let Some(bytes) = self.bytes(field) else { return Ok(None) };
        let micros = i64::from_be_bytes(bytes.try_into().map_err(|_| Broken("a timestamptz has 8 bytes"))?);
        Ok(Some(micros.div_euclid(1_000).saturating_add(YEAR_2000_MS)))
    }

    pub fn small(&self, field: usize) -> Result<Option<i16>, Broken> {
        self.bytes(field)
            .map(|bytes| bytes.try_into().map(i16::from_be_bytes).map_err(|_| Broken("an int2 has 2 bytes")))
            .transpose()
    }

    pub fn int(&self, field: usize) -> Result<Option<i32>, Broken> {
        self.bytes(field)
            .map(|bytes| bytes.try_into().map(i32::from_be_bytes).map_err(|_| Broken("an int4 has 4 bytes")))
            .transpose()
    }

    pub fn big(&self, field: usize) -> Result<Option<i64>, Broken> {
        self.bytes(field)
            .map(|bytes| bytes.try_into().map(i64::from_be_bytes).map_err(|_| Broken("an int8 has 8 bytes")))
            .transpose()
    }

    pub fn boolean(&self, field: usize) -> Result<Option<bool>, Broken> {
        match self.bytes(field) {
            None => Ok(None),
            Some([value]) => Ok(Some(*value != 0)),
            Some(_) => Err(Broken("a bool has 1 byte")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Header,
    Row,
}

/// Reads one stream, or several behind one another. What is left of an unfinished row waits for the next chunk.
#[derive(Debug)]
pub struct Reader {
    columns: usize,
    expect: Expect,
    rest: Vec<u8>,
}

impl Reader {
    pub fn new(columns: usize) -> Self {
        Self { columns, expect: Expect::Header, rest: Vec::new() }
    }

    /// Calls `each` for every row that this chunk completes.
    pub fn feed(&mut self, chunk: &[u8], mut each: impl FnMut(&Row<'_>) -> Result<(), Broken>) -> Result<(), Broken> {
        // Whole rows are read where they lie; only the first one may begin in what was left over.
        if self.rest.is_empty() {
            let used = self.rows(chunk, &mut each)?;
            self.rest.extend_from_slice(&chunk[used..]);
        } else {
            let mut data = std::mem::take(&mut self.rest);
            data.extend_from_slice(chunk);
            let used = self.rows(&data, &mut each)?;
            data.drain(..used);
            self.rest = data;
        }
        Ok(())
    }

    /// Nothing was cut off: every stream that began has ended.
    pub fn finish(&self) -> Result<(), Broken> {
        if self.expect == Expect::Header && self.rest.is_empty() { Ok(()) } else { Err(Broken("the stream was cut")) }
    }

    fn rows(&mut self, data: &[u8], each: &mut impl FnMut(&Row<'_>) -> Result<(), Broken>) -> Result<usize, Broken> {
        let mut fields: Vec<Option<(usize, usize)>> = vec![None; self.columns];
        let mut at = 0;
        loop {
            match self.expect {
                Expect::Header => {
                    let Some(header) = data.get(at..at + HEADER_BYTES) else { return Ok(at) };
                    if !header.starts_with(SIGNATURE) || header[SIGNATURE.len()..] != [0; 8] {
                        return Err(Broken("not a binary COPY stream"));
                    }
                    at += HEADER_BYTES;
                    self.expect = Expect::Row;
                }
                Expect::Row => match read_row(data, at, &mut fields)? {
                    Step::Cut => return Ok(at),
                    Step::End(next) => {
                        at = next;
                        self.expect = Expect::Header;
                    }
                    Step::Row(next) => {
                        each(&Row { data, fields: &fields })?;
                        at = next;
                    }
                },
            }
        }
    }
}

enum Step {
    Row(usize),
    End(usize),
    Cut,
}

fn read_row(data: &[u8], from: usize, fields: &mut [Option<(usize, usize)>]) -> Result<Step, Broken> {
    let Some(count) = data.get(from..from + 2) else { return Ok(Step::Cut) };
    let mut at = from + 2;
    match i16::from_be_bytes([count[0], count[1]]) {
        -1 => return Ok(Step::End(at)),
        n if usize::try_from(n) == Ok(fields.len()) => {}
        _ => return Err(Broken("a row has another number of columns")),
    }
    for field in fields {
        let Some(&[a, b, c, d]) = data.get(at..at + 4) else { return Ok(Step::Cut) };
        at += 4;
        *field = match i32::from_be_bytes([a, b, c, d]) {
            -1 => None,
            length => {
                let to = at + usize::try_from(length).map_err(|_| Broken("a field of negative length"))?;
                if to > data.len() {
                    return Ok(Step::Cut);
                }
                let span = (at, to);
                at = to;
                Some(span)
            }
        };
    }
    Ok(Step::Row(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(rows: &[(Option<String>, i64)]) -> Vec<u8> {
        let mut writer = Writer::with_capacity(0);
        for (text, ms) in rows {
            writer.row(2);
            writer.optional(text.as_ref().map(String::as_bytes));
            writer.instant(*ms);
        }
        writer.finish()
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            rows in proptest::collection::vec((proptest::option::of(".{0,9}"), -1_000_000_000_000_i64..4_000_000_000_000), 0..6),
            cuts in proptest::collection::vec(1_usize..40, 1..20),
        ) {
            let mut data = stream(&rows);
            data.extend(stream(&rows));
            let mut reader = Reader::new(2);
            let mut read = Vec::new();
            let mut rest = data.as_slice();
            for cut in cuts.iter().cycle() {
                let (chunk, behind) = rest.split_at((*cut).min(rest.len()));
                reader.feed(chunk, |row| {
                    read.push((row.text(0)?.map(str::to_owned), row.instant(1)?.unwrap()));
                    Ok(())
                }).unwrap();
                rest = behind;
                if rest.is_empty() {
                    break;
                }
                prop_assert!(reader.finish().is_err() || !read.is_empty() || rows.is_empty());
            }
            prop_assert_eq!(reader.finish(), Ok(()));
            prop_assert_eq!(read, [rows.clone(), rows].concat());
        }

        #[test]
        fn junk_is_no_panic(junk in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut data = stream(&[]);
            data.truncate(data.len() - 2);
            data.extend(junk);
            let _ = Reader::new(2).feed(&data, |row| row.instant(1).and(row.text(0)).map(drop));
        }
    }
}
