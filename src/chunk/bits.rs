//! A stream of bits, most significant first, over a byte slice.
//!
//! Both sides work on 64 bits at a time. The writer keeps the last, unfinished word outside the
//! slice, in two integers that its owner stores ([`Writer::suspend`]): most appends to a chunk
//! then touch no byte of it at all. The tests hold a twin of each that moves single bits.

/// Where the whole words of a [`Writer`] go.
pub trait Words {
    /// Takes a word. `at` is its first byte; words come in order, without gaps.
    fn put_word(&mut self, at: usize, word: [u8; 8]);
}

/// A slice that is long enough.
impl Words for [u8] {
    #[inline]
    fn put_word(&mut self, at: usize, word: [u8; 8]) {
        self[at..at + 8].copy_from_slice(&word);
    }
}

/// A vector that holds all words before, and perhaps something in front of them.
impl Words for Vec<u8> {
    #[inline]
    fn put_word(&mut self, _: usize, word: [u8; 8]) {
        self.extend_from_slice(&word);
    }
}

/// Appends bits. Whole words go to `stream`; the rest waits in `partial`.
#[derive(Debug)]
pub struct Writer<'a, S: Words + ?Sized = [u8]> {
    stream: &'a mut S,
    /// Bits of the unfinished word, from the top; below them zeros.
    partial: u64,
    /// Bits written so far, over all words.
    len_bits: u32,
}

impl<'a, S: Words + ?Sized> Writer<'a, S> {
    /// Goes on where [`Writer::suspend`] stopped; `(0, 0)` begins.
    #[inline]
    pub(super) fn resume(stream: &'a mut S, (partial, len_bits): (u64, u32)) -> Self {
        Self { stream, partial, len_bits }
    }

    /// The state to resume from.
    #[inline]
    pub(super) fn suspend(self) -> (u64, u32) {
        (self.partial, self.len_bits)
    }

    /// Appends the low `n` bits of `value`; those above must be zero. `n` is 1 to 64.
    #[inline]
    pub(super) fn put(&mut self, value: u64, n: u32) {
        debug_assert!((1..=64).contains(&n), "{n} bits");
        debug_assert!(n == 64 || value >> n == 0, "{value:#x} has more than {n} bits");
        let free = 64 - self.len_bits % 64;
        let word = (self.len_bits / 64) as usize * 8;
        self.len_bits += n;
        if n < free {
            self.partial |= value << (free - n);
            return;
        }
        let over = n - free; // at most 63, as at least one bit was free
        let full = self.partial | value >> over;
        self.stream.put_word(word, full.to_be_bytes());
        self.partial = if over == 0 { 0 } else { value << (64 - over) };
    }

    /// Appends an unsigned integer of 7 bits per byte, low bits first (LEB128), at any bit.
    pub(super) fn put_uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.put(value, 8);
    }

    /// Appends a signed integer, zigzag.
    pub(super) fn put_varint(&mut self, value: i64) {
        self.put_uvarint((value << 1 ^ value >> 63) as u64);
    }

    /// Appends a signed integer in the shortest of the [`VARBIT`] fields that holds it.
    pub(super) fn put_varbit(&mut self, value: i64) {
        // `100..0` is the positive end, so the range is one step above two's complement.
        let fits = |n: u32| (value.wrapping_add((1 << (n - 1)) - 1) as u64) < 1 << n;
        self.put_field(value as u64, value == 0, fits);
    }

    /// Appends an unsigned integer in the shortest of the [`VARBIT`] fields that holds it.
    pub(super) fn put_uvarbit(&mut self, value: u64) {
        self.put_field(value, value == 0, |n| value < 1 << n);
    }

    fn put_field(&mut self, value: u64, zero: bool, fits: impl Fn(u32) -> bool) {
        if zero {
            return self.put(0, 1);
        }
        if let Some((&n, ones)) = VARBIT.iter().zip(1..).find(|&(&n, _)| fits(n)) {
            let prefix = (1 << (ones + 1)) - 2;
            self.put(prefix << n | value & ((1 << n) - 1), ones + 1 + n);
        } else {
            self.put(0xff, 8);
            self.put(value, 64);
        }
    }
}

/// Widths of integers of variable width. In front of a field stand as many ones as its place here,
/// from 1, and a zero. A single zero is the number 0; eight ones are followed by 64 bits.
pub(super) const VARBIT: [u32; 7] = [3, 6, 9, 12, 18, 25, 56];

/// Writes the unfinished word of a suspended writer behind the finished ones, so that the first
/// `len_bits.div_ceil(8)` bytes of `stream` are exact. Changes nothing for the writer.
pub(super) fn settle(stream: &mut [u8], (partial, len_bits): (u64, u32)) {
    let word = (len_bits / 64) as usize * 8;
    let rest = (len_bits % 64).div_ceil(8) as usize;
    stream[word..word + rest].copy_from_slice(&partial.to_be_bytes()[..rest]);
}

/// Why bits could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The stream ends before.
    Ended,
    /// A variable-length integer has more than 64 bits.
    Overlong,
    /// A window on a value has more than 64 bits.
    Wide {
        /// Announced leading zeros.
        lead: u32,
        /// Announced significant bits.
        significant: u32,
    },
}

/// Reads bits. Every read is checked against the end.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// Position of the next bit.
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next 57 to 64 bits at the top of a word, zeros where the stream has ended. Consumes
    /// nothing and promises nothing about the end: [`Reader::skip`] does.
    #[inline]
    pub(super) fn peek(&self) -> u64 {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let word = match rest.first_chunk::<8>() {
            Some(bytes) => u64::from_be_bytes(*bytes),
            None => last_word(rest),
        };
        word << (self.at % 8)
    }

    /// Consumes `n` bits.
    #[inline]
    pub(super) fn skip(&mut self, n: u32) -> Result<(), Fault> {
        let next = self.at + n as usize;
        if next > self.bytes.len() * 8 {
            return Err(Fault::Ended);
        }
        self.at = next;
        Ok(())
    }

    /// Reads `n` bits, 1 to 64.
    #[inline]
    pub(super) fn take(&mut self, n: u32) -> Result<u64, Fault> {
        debug_assert!((1..=64).contains(&n), "{n} bits");
        if n <= 57 {
            let value = self.peek() >> (64 - n);
            self.skip(n)?;
            return Ok(value);
        }
        let high = self.take(n - 32)?;
        Ok(high << 32 | self.take(32)?)
    }

    /// Reads what [`Writer::put_uvarint`] wrote.
    pub(super) fn take_uvarint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(8)?;
            if shift == 63 && byte > 1 {
                return Err(Fault::Overlong);
            }
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::Overlong)
    }

    /// Reads what [`Writer::put_varint`] wrote.
    pub(super) fn take_varint(&mut self) -> Result<i64, Fault> {
        let zigzag = self.take_uvarint()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// Reads what [`Writer::put_varbit`] wrote.
    pub(super) fn take_varbit(&mut self) -> Result<i64, Fault> {
        let (field, n) = self.take_field()?;
        let over = n < 64 && field > 1 << n >> 1;
        Ok(if over { field.wrapping_sub(1 << n) as i64 } else { field as i64 })
    }

    /// Reads what [`Writer::put_uvarbit`] wrote.
    pub(super) fn take_uvarbit(&mut self) -> Result<u64, Fault> {
        Ok(self.take_field()?.0)
    }

    /// A field of [`VARBIT`] and its width, 0 to 64.
    fn take_field(&mut self) -> Result<(u64, u32), Fault> {
        let ones = self.peek().leading_ones().min(8);
        let n = match ones {
            0 => 0,
            8 => 64,
            _ => VARBIT[ones as usize - 1],
        };
        self.skip((ones + 1).min(8))?;
        Ok(if n == 0 { (0, 0) } else { (self.take(n)?, n) })
    }

    /// Bits that are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }
}

/// Fewer than eight bytes as the top of a word.
#[cold]
fn last_word(rest: &[u8]) -> u64 {
    rest.iter().rev().fold(0, |word, &byte| word >> 8 | u64::from(byte) << 56)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The twin: one bit at a time.
    #[derive(Default)]
    struct Plain(Vec<bool>);

    impl Plain {
        fn put(&mut self, value: u64, n: u32) {
            self.0.extend((0..n).rev().map(|i| value >> i & 1 == 1));
        }

        fn bytes(&self) -> Vec<u8> {
            let byte = |bits: &[bool]| {
                (0..8).fold(0, |b, i| b << 1 | u8::from(bits.get(i) == Some(&true)))
            };
            self.0.chunks(8).map(byte).collect()
        }

        fn take(&self, at: &mut usize, n: u32) -> Option<u64> {
            let bits = self.0.get(*at..*at + n as usize)?;
            *at += n as usize;
            Some(bits.iter().fold(0, |v, &b| v << 1 | u64::from(b)))
        }
    }

    fn fields() -> impl Strategy<Value = Vec<(u64, u32)>> {
        let field = (any::<u64>(), 1u32..=64).prop_map(|(v, n)| (v >> (64 - n), n));
        proptest::collection::vec(field, 0..200)
    }

    proptest! {
        #[test]
        fn words_and_single_bits_agree(fields in fields()) {
            let mut plain = Plain::default();
            let mut stream = vec![0xa5; 200 * 8];
            let mut words = Vec::new();
            let mut state = (0, 0);
            for &(value, n) in &fields {
                let mut growing = Writer::resume(&mut words, state);
                growing.put(value, n);
                let mut writer = Writer::resume(&mut stream[..], state);
                writer.put(value, n);
                state = writer.suspend();
                plain.put(value, n);
            }
            prop_assert_eq!(words.len(), state.1 as usize / 64 * 8);
            prop_assert_eq!(&words[..], &stream[..words.len()]);
            settle(&mut stream, state);
            let want = plain.bytes();
            prop_assert_eq!(state.1 as usize, plain.0.len());
            prop_assert_eq!(&stream[..want.len()], &want[..]);
            prop_assert!(stream[want.len()..].iter().all(|&b| b == 0xa5), "wrote past the end");

            let (mut reader, mut at) = (Reader::new(&want), 0);
            for &(value, n) in &fields {
                prop_assert_eq!(plain.take(&mut at, n), Some(value));
                prop_assert_eq!(reader.take(n), Ok(value));
            }
            let padding = want.len() * 8 - plain.0.len();
            prop_assert_eq!(reader.take(padding as u32 + 1), Err(Fault::Ended));
        }

        #[test]
        fn integers_of_variable_length_come_back(
            values in proptest::collection::vec((any::<i64>(), 0u32..64), 1..50),
            lead in 0u32..8,
        ) {
            let mut stream = vec![0; 2 + values.len() * 38];
            let mut writer = Writer::resume(&mut stream[..], (0, 0));
            if lead > 0 {
                writer.put(0, lead);
            }
            for &(v, shift) in &values {
                writer.put_varint(v >> shift);
                writer.put_uvarint(v as u64 >> shift);
                writer.put_varbit(v >> shift);
                writer.put_uvarbit(v as u64 >> shift);
            }
            let state = writer.suspend();
            settle(&mut stream, state);
            let mut reader = Reader::new(&stream);
            prop_assert_eq!(reader.skip(lead), Ok(()));
            for &(v, shift) in &values {
                prop_assert_eq!(reader.take_varint(), Ok(v >> shift));
                prop_assert_eq!(reader.take_uvarint(), Ok(v as u64 >> shift));
                prop_assert_eq!(reader.take_varbit(), Ok(v >> shift));
                prop_assert_eq!(reader.take_uvarbit(), Ok(v as u64 >> shift));
            }
        }
    }

    /// What is written takes so many bits, and is read back.
    fn check<T: Copy + PartialEq + std::fmt::Debug>(
        (value, bits): (T, u32),
        put: fn(&mut Writer<'_, Vec<u8>>, T),
        take: fn(&mut Reader<'_>) -> Result<T, Fault>,
    ) {
        let mut words = Vec::new();
        let mut writer = Writer::resume(&mut words, (0, 0));
        put(&mut writer, value);
        let state = writer.suspend();
        assert_eq!(state.1, bits, "{value:?}");
        words.resize(9, 0);
        settle(&mut words, state);
        assert_eq!(take(&mut Reader::new(&words)), Ok(value));
    }

    #[test]
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the methods' paths name one lifetime, the closures any"
    )]
    fn integers_of_variable_width_change_width_where_the_format_says() {
        let signed = |value, bits| {
            check((value, bits), |w, v| w.put_varbit(v), |r| r.take_varbit());
        };
        signed(0, 1);
        let mut shorter = 1;
        for (n, ones) in VARBIT.into_iter().zip(1..) {
            let (low, high) = (-(1_i64 << (n - 1)) + 1, 1_i64 << (n - 1));
            signed(high, ones + 1 + n);
            signed(low, ones + 1 + n);
            assert!(ones + 1 + n > shorter);
            shorter = ones + 1 + n;
        }
        for wide in [(1 << 55) + 1, -(1 << 55), i64::MIN, i64::MAX] {
            signed(wide, 72);
        }
        for case in [(0, 1), (1, 5), (7, 5), (8, 9), ((1 << 56) - 1, 64), (1 << 56, 72)] {
            check(case, |w, v| w.put_uvarbit(v), |r| r.take_uvarbit());
        }
    }

    #[test]
    fn an_integer_over_64_bits_is_refused() {
        let check =
            |bytes: &[u8], want| assert_eq!(Reader::new(bytes).take_uvarint(), want, "{bytes:x?}");
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Ok(u64::MAX));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], Err(Fault::Overlong));
        check(
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
            Err(Fault::Overlong),
        );
        check(&[0x80], Err(Fault::Ended));
        check(&[], Err(Fault::Ended));
    }
}
