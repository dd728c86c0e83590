//! The byte writer and reader behind all our record formats: fixed-width fields raw, lengths and
//! counts as LEB128 varints. Reading never panics and never allocates more than the input holds.

use bytes::Bytes;

/// Bytes that are not what their format says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The input ended inside a field.
    #[error("decode record: input ends inside a field")]
    Truncated,
    /// A varint does not fit its type, or is not in its shortest form.
    #[error("decode record: malformed varint")]
    Varint,
    /// A field holds a value that its type does not know.
    #[error("decode record: unknown {0}")]
    Unknown(&'static str),
    /// Bytes are left after the last field.
    #[error("decode record: trailing bytes")]
    Trailing,
    /// A length is beyond its limit.
    #[error("decode record: {0} beyond its limit")]
    TooLong(&'static str),
}

/// Appends fields to a growing buffer.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Appends an unsigned number as a LEB128 varint of 1 to 10 bytes.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Appends a 16-byte identifier.
    pub fn id(&mut self, id: [u8; 16]) {
        self.raw(&id);
    }

    /// Appends a varint length and the bytes.
    pub fn blob(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes fields off the front of a byte slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their beginning.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes as they are.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when fewer are left.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(CodecError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    /// The bytes before the next `end`, which is passed.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when there is none.
    pub fn until(&mut self, end: u8) -> Result<&'a [u8], CodecError> {
        let len = self.rest.iter().position(|byte| *byte == end);
        let before = self.raw(len.ok_or(CodecError::Truncated)?)?;
        self.raw(1)?;
        Ok(before)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        Ok(self.raw(N)?.try_into().expect("raw returns exactly N bytes"))
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] at the end.
    pub fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>()?[0])
    }

    /// The next varint.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] at the end, [`CodecError::Varint`] when it is not a shortest form.
    pub fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(CodecError::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return if shortest { Ok(value) } else { Err(CodecError::Varint) };
            }
        }
        Err(CodecError::Varint)
    }

    /// The next varint as a narrower number.
    ///
    /// # Errors
    /// As [`Self::varint`], and [`CodecError::Varint`] when it does not fit.
    pub fn narrow<T: TryFrom<u64>>(&mut self) -> Result<T, CodecError> {
        T::try_from(self.varint()?).map_err(|_| CodecError::Varint)
    }

    /// The next length-prefixed bytes.
    ///
    /// # Errors
    /// [`CodecError`] when the length or the bytes are not there.
    pub fn blob(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.narrow::<usize>()?;
        self.raw(len)
    }

    /// The next length-prefixed bytes, copied.
    ///
    /// # Errors
    /// As [`Self::blob`].
    pub fn blob_bytes(&mut self) -> Result<Bytes, CodecError> {
        self.blob().map(Bytes::copy_from_slice)
    }

    /// Asserts that everything was read.
    ///
    /// # Errors
    /// [`CodecError::Trailing`] when bytes are left.
    pub const fn finish(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_refuse_longer_forms() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Writer::new();
            out.varint(value);
            let bytes = out.into_bytes();
            assert_eq!(Reader::new(&bytes).varint(), Ok(value));
        }
        assert_eq!(Reader::new(&[0x80, 0x00]).varint(), Err(CodecError::Varint));
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err(CodecError::Varint));
        assert_eq!(Reader::new(&[0x80]).varint(), Err(CodecError::Truncated));
    }

    #[test]
    fn a_length_beyond_the_input_is_an_error_not_an_allocation() {
        let mut out = Writer::new();
        out.varint(u64::MAX >> 1);
        assert_eq!(Reader::new(&out.into_bytes()).blob(), Err(CodecError::Truncated));
    }
}
