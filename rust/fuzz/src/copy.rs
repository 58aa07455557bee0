//! A binary COPY stream: its number of columns, the size of the pieces that it comes in, then the bytes.
//!
//! Where a stream is cut does not matter: the same rows come, and the same fault.

use sendora_core::Broken;
use sendora_core::pgcopy::{Reader, Row, Writer};

type Rows = Vec<Vec<Option<Vec<u8>>>>;

pub fn run(data: &[u8]) {
    let Some((&[columns, piece], bytes)) = data.split_first_chunk::<2>() else { return };
    let columns = usize::from(columns % 17);
    read(bytes, columns, piece);
    // Behind a header that is right, so that chance need not find one.
    let mut stream = Writer::with_capacity(0).finish();
    stream.truncate(stream.len() - 2);
    stream.extend_from_slice(bytes);
    read(&stream, columns, piece);
}

fn read(stream: &[u8], columns: usize, piece: u8) {
    let whole = feed(std::iter::once(stream), columns);
    let pieces = feed(stream.chunks(usize::from(piece) + 1), columns);
    assert_eq!(whole, pieces, "where a stream is cut must not matter");
}

fn feed<'d>(mut pieces: impl Iterator<Item = &'d [u8]>, columns: usize) -> (Rows, Result<(), Broken>) {
    let mut reader = Reader::new(columns);
    let mut rows = Rows::new();
    let fed = pieces.try_for_each(|piece| {
        reader.feed(piece, |row| {
            rows.push((0..columns).map(|field| ask(row, field)).collect());
            Ok(())
        })
    });
    (rows, fed.and_then(|()| reader.finish()))
}

/// Every accessor answers or refuses.
fn ask(row: &Row<'_>, field: usize) -> Option<Vec<u8>> {
    let _ =
        (row.text(field), row.jsonb(field), row.id(field), row.instant(field), row.small(field), row.boolean(field));
    row.bytes(field).map(<[u8]>::to_vec)
}
